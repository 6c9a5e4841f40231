"""``/v1/files``."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Annotated, Literal
from urllib.parse import quote

from fastapi import APIRouter, Query, Request
from fastapi.responses import StreamingResponse
from starlette.datastructures import FormData, UploadFile

from graftwork.api.auth import Caller, OnPlatform
from graftwork.api.wire.base import IdList
from graftwork.api.wire.files import File, FileDeleted, file_wire
from graftwork.core.errors import InvalidRequest

router = APIRouter(prefix="/v1/files", tags=["files"])

_PIECE = 1024 * 1024
_FORM = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["file", "purpose"],
                    "properties": {
                        "file": {"type": "string", "format": "binary"},
                        "purpose": {"type": "string"},
                        "expires_after[anchor]": {"type": "string", "enum": ["created_at"]},
                        "expires_after[seconds]": {"type": "integer"},
                    },
                }
            }
        },
    }
}


@router.post("", openapi_extra=_FORM)
async def create_file(request: Request, caller: Caller, platform: OnPlatform) -> File:
    """Upload a file. The form is read only after the key was checked."""
    async with request.form(max_files=1, max_fields=16) as form:
        upload = form.get("file")
        if not isinstance(upload, UploadFile):
            raise _missing("file")
        purpose = form.get("purpose")
        if not isinstance(purpose, str):
            raise _missing("purpose")
        stored = await platform.files.create(
            caller.project_id,
            filename=upload.filename or "",
            purpose=purpose,
            content=pieces(upload),
            expires_after=_expiry(form),
        )
    return file_wire(stored)


@router.get("")
async def list_files(
    caller: Caller,
    platform: OnPlatform,
    purpose: str | None = None,
    limit: Annotated[int, Query(ge=1, le=10_000)] = 10_000,
    order: Literal["asc", "desc"] = "desc",
    after: str | None = None,
) -> IdList[File]:
    """The project's files."""
    page = await platform.files.list(
        caller.project_id, purpose=purpose, after=after, limit=limit, order=order
    )
    data = [file_wire(stored) for stored in page.items]
    return IdList(
        data=data,
        first_id=data[0].id if data else None,
        last_id=data[-1].id if data else None,
        has_more=page.has_more,
    )


@router.get("/{file_id}")
async def retrieve_file(file_id: str, caller: Caller, platform: OnPlatform) -> File:
    """One file."""
    return file_wire(await platform.files.get(caller.project_id, file_id))


@router.get("/{file_id}/content", response_class=StreamingResponse)
async def file_content(file_id: str, caller: Caller, platform: OnPlatform) -> StreamingResponse:
    """The file's bytes."""
    stored, content = await platform.files.content(caller.project_id, file_id)
    headers = {
        "content-disposition": f"attachment; filename*=UTF-8''{quote(stored.filename)}",
        "content-length": str(stored.bytes),
    }
    return StreamingResponse(content, media_type="application/octet-stream", headers=headers)


@router.delete("/{file_id}")
async def delete_file(file_id: str, caller: Caller, platform: OnPlatform) -> FileDeleted:
    """Delete a file."""
    stored = await platform.files.delete(caller.project_id, file_id)
    return FileDeleted(id=stored.id)


async def pieces(upload: UploadFile) -> AsyncIterator[bytes]:
    """An upload's bytes, a megabyte at a time."""
    while piece := await upload.read(_PIECE):
        yield piece


def _expiry(form: FormData) -> int | None:
    anchor, seconds = form.get("expires_after[anchor]"), form.get("expires_after[seconds]")
    if anchor is None and seconds is None:
        return None
    if anchor != "created_at":
        raise InvalidRequest(
            "expires_after.anchor must be 'created_at'.", fix="Send it.", param="expires_after.anchor"
        )
    if not isinstance(seconds, str) or not seconds.isascii() or not seconds.isdigit() or len(seconds) > 12:
        raise InvalidRequest(
            "expires_after.seconds must be a whole number.",
            fix="Send seconds from 3600 to 2592000.",
            param="expires_after.seconds",
        )
    return int(seconds)


def _missing(name: str) -> InvalidRequest:
    return InvalidRequest(
        f"Missing required parameter: {name}.",
        fix="Send a multipart form with 'file' and 'purpose'.",
        code="missing_required_parameter",
        param=name,
    )
