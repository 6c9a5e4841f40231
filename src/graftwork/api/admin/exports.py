"""``/api/exports``: versions in other formats, made in the background."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path, Query
from fastapi.responses import StreamingResponse

from graftwork.api.auth import Caller, OnPlatform
from graftwork.api.wire.base import List
from graftwork.api.wire.exports import ExportBody, ExportWire, PushBody, export_wire

router = APIRouter(prefix="/api", tags=["exports"])

Number = Annotated[int, Path(ge=1)]


@router.post("/adapters/{name}/versions/{number}/exports")
async def create_export(
    name: str, number: Number, body: ExportBody, caller: Caller, platform: OnPlatform
) -> ExportWire:
    """Have a version written in another format; asked again, it is the export that is there."""
    made = await platform.exports.create(
        caller.project_id,
        f"{name}@{number}",
        format=body.format,
        quant=body.quant,
        with_base=body.with_base,
    )
    return export_wire(made)


@router.post("/adapters/{name}/versions/{number}/push")
async def push_version(
    name: str, number: Number, body: PushBody, caller: Caller, platform: OnPlatform
) -> ExportWire:
    """Have a version pushed to a repository of the Hugging Face Hub, with a model card."""
    made = await platform.exports.push(
        caller.project_id,
        f"{name}@{number}",
        repository=body.repository,
        token=body.token.get_secret_value(),
        private=body.private,
        format=body.format,
        quant=body.quant,
    )
    return export_wire(made)


@router.get("/exports")
async def list_exports(
    caller: Caller, platform: OnPlatform, limit: Annotated[int, Query(ge=1, le=100)] = 20
) -> List[ExportWire]:
    """The project's exports, newest first."""
    found = await platform.exports.list(caller.project_id, limit)
    return List(data=[export_wire(export) for export in found])


@router.get("/exports/{export_id}")
async def show_export(export_id: str, caller: Caller, platform: OnPlatform) -> ExportWire:
    """One export: how far it is, its files, or why it failed."""
    return export_wire(await platform.exports.get(caller.project_id, export_id))


@router.get("/exports/{export_id}/files/{path:path}", response_class=StreamingResponse)
async def download_export(
    export_id: str, path: str, caller: Caller, platform: OnPlatform
) -> StreamingResponse:
    """One file of a finished export. A damaged one ends before its length."""
    size, pieces = await platform.exports.file(caller.project_id, export_id, path)
    headers = {"content-length": str(size)}
    return StreamingResponse(pieces, media_type="application/octet-stream", headers=headers)
