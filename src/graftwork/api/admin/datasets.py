"""``/api/datasets``: the validator, before anything is paid for, and the helpers that make data sets."""

from __future__ import annotations

from typing import Annotated, Any, get_args

from fastapi import APIRouter, Query, Request
from starlette.datastructures import FormData, UploadFile

from graftwork.api.auth import Caller, OnPlatform
from graftwork.api.wire.datasets import DedupBody, DiffBody, MixBody, SplitBody
from graftwork.api.wire.files import file_wire
from graftwork.control.services.dataset_tools import Made
from graftwork.control.services.datasets import Upload
from graftwork.core.errors import InvalidRequest
from graftwork.core.specs import Method
from graftwork.data.near import THRESHOLD
from graftwork.data.workbench import Named

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
                        "method": {"type": "string", "enum": list(get_args(Method))},
                    },
                }
            },
        },
    }
}


def _method(name: str) -> Method:
    found = next((method for method in get_args(Method) if method == name), None)
    if found is None:
        raise InvalidRequest(
            f"There is no method {name[:40]!r}.",
            fix=f"Use one of {', '.join(get_args(Method))}.",
            param="method",
        )
    return found


@router.post("/check", openapi_extra=_BODY)
async def check_dataset(
    request: Request,
    caller: Caller,
    platform: OnPlatform,
    model: str = "seedling",
    filename: str | None = None,
    max_length: Annotated[int | None, Query(ge=8)] = None,
    method: Method = "sft",
) -> Json:
    """Check a data set for a method against a base model's tokenizer and template; nothing is stored.

    The bytes are the body, or ``file`` of a multipart form, which may also hold ``validation``,
    ``model`` and ``method``. The answer is the report, with the validation set's own under ``validation``.
    """
    if request.headers.get("content-type", "").startswith("multipart/form-data"):
        async with request.form(max_files=2, max_fields=8) as form:
            data, validation = await _upload(form, "file"), await _upload(form, "validation")
            named = form.get("model")
            meant = form.get("method")
        model = named if isinstance(named, str) else model
        method = _method(meant) if isinstance(meant, str) else method
    else:
        data, validation = Upload(await request.body(), filename), None
    if data is None:
        raise _no_file()
    model = await platform.datasets.base_of(caller.project_id, model)
    report, other = await platform.datasets.validate(
        caller.project_id, data, base=model, validation=validation, max_length=max_length, method=method
    )
    return {
        **report.to_json(),
        "validation": None if other is None else other.to_json(),
        "estimate": await platform.datasets.estimate(report, other, base=model, method=method),
    }


@router.post("/stats", openapi_extra=_BODY)
async def dataset_stats(
    request: Request,
    caller: Caller,
    platform: OnPlatform,
    model: str = "seedling",
    filename: str | None = None,
    file: str | None = None,
    near: Annotated[float, Query(gt=0, le=1)] = THRESHOLD,
) -> Json:
    """A data set in numbers: a form or body as for ``check``, or the stored file that ``file`` names."""
    data: Named | str | None
    if file is not None:
        data = file
    elif request.headers.get("content-type", "").startswith("multipart/form-data"):
        async with request.form(max_files=1, max_fields=8) as form:
            sent = await _upload(form, "file")
            named, overlap = form.get("model"), form.get("near")
        model = named if isinstance(named, str) else model
        near = _overlap(overlap) if isinstance(overlap, str) else near
        data = None if sent is None else Named(sent.filename or "", sent.content)
    else:
        data = Named(filename or "", await request.body())
    if data is None:
        raise _no_file()
    return await platform.dataset_tools.stats(caller.project_id, data, base=model, near=near)


@router.post("/split")
async def split_dataset(body: SplitBody, caller: Caller, platform: OnPlatform) -> Json:
    """Divide a stored file; the parts are new files. Near duplicates stay together."""
    shares = {"valid": body.valid, "test": body.test}
    return _made(
        await platform.dataset_tools.split(caller.project_id, body.file, shares, body.seed, body.near)
    )


@router.post("/dedup")
async def dedup_dataset(body: DedupBody, caller: Caller, platform: OnPlatform) -> Json:
    """A stored file without its duplicates, as a new file under ``files.rows``."""
    return _made(await platform.dataset_tools.dedup(caller.project_id, body.file, body.near))


@router.post("/mix")
async def mix_datasets(body: MixBody, caller: Caller, platform: OnPlatform) -> Json:
    """Several stored files in one, by weight, as a new file under ``files.rows``."""
    sources = [(source.file, source.weight) for source in body.sources]
    return _made(await platform.dataset_tools.mix(caller.project_id, sources, body.seed, body.rows))


@router.post("/diff")
async def diff_datasets(body: DiffBody, caller: Caller, platform: OnPlatform) -> Json:
    """What became of the rows of one stored file in another."""
    return await platform.dataset_tools.diff(caller.project_id, body.before, body.after, body.near)


def _made(made: Made) -> Json:
    files = {part: file_wire(file).model_dump() for part, file in made.files.items()}
    return {**made.report, "files": files}


def _overlap(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value <= 1:
        raise InvalidRequest(
            "near must be above 0 and at most 1.",
            fix="Send such a number.",
            code="invalid_value",
            param="near",
        )
    return value


def _no_file() -> InvalidRequest:
    return InvalidRequest(
        "Missing required parameter: file.",
        fix="Send the data set as 'file' of a form, or as the body.",
        code="missing_required_parameter",
        param="file",
    )


async def _upload(form: FormData, name: str) -> Upload | None:
    part = form.get(name)
    return Upload(await part.read(), part.filename) if isinstance(part, UploadFile) else None
