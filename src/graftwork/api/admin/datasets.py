"""``/api/datasets/check``: the validator, before anything is paid for."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from starlette.datastructures import FormData, UploadFile

from graftwork.api.auth import Caller, OnPlatform
from graftwork.control.services.datasets import Upload
from graftwork.core.errors import InvalidRequest

router = APIRouter(prefix="/api/datasets", tags=["data sets"])

Json = dict[str, Any]
_BODY = {
    "requestBody": {
        "required": True,
        "content": {
            "application/octet-stream": {"schema": {"type": "string", "format": "binary"}},
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["file"],
                    "properties": {
                        "file": {"type": "string", "format": "binary"},
                        "validation": {"type": "string", "format": "binary"},
                        "model": {"type": "string"},
                    },
                }
            },
        },
    }
}


@router.post("/check", openapi_extra=_BODY)
async def check_dataset(
    request: Request,
    caller: Caller,
    platform: OnPlatform,
    model: str = "seedling",
    filename: str | None = None,
    max_length: Annotated[int | None, Query(ge=8)] = None,
) -> Json:
    """Check a data set against a base model's tokenizer and template; nothing is stored.

    The bytes are the body, or ``file`` of a multipart form, which may also hold ``validation`` and
    ``model``. The answer is the report, with the validation set's own report under ``validation``.
    """
    if request.headers.get("content-type", "").startswith("multipart/form-data"):
        async with request.form(max_files=2, max_fields=8) as form:
            data, validation = await _upload(form, "file"), await _upload(form, "validation")
            named = form.get("model")
        model = named if isinstance(named, str) else model
    else:
        data, validation = Upload(await request.body(), filename), None
    if data is None:
        raise InvalidRequest(
            "Missing required parameter: file.",
            fix="Send the data set as 'file' of a form, or as the body.",
            code="missing_required_parameter",
            param="file",
        )
    report, other = await platform.datasets.validate(
        caller.project_id, data, base=model, validation=validation, max_length=max_length
    )
    return {
        **report.to_json(),
        "validation": None if other is None else other.to_json(),
        "estimate": await platform.datasets.estimate(report, other, base=model),
    }


async def _upload(form: FormData, name: str) -> Upload | None:
    part = form.get(name)
    return Upload(await part.read(), part.filename) if isinstance(part, UploadFile) else None
