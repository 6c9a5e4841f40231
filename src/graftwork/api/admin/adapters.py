"""``/api/adapters``: versions, aliases, promotion and rollback."""

from __future__ import annotations

from collections.abc import Iterator
from typing import IO, Annotated

from fastapi import APIRouter, Path
from fastapi.responses import StreamingResponse

from graftwork.api.auth import Caller, OnGateway, OnPlatform
from graftwork.api.platform import Platform
from graftwork.api.wire.adapters import (
    AdapterWire,
    AliasWire,
    PromoteBody,
    RollbackBody,
    VersionDeleted,
    VersionReceipt,
    adapter_wire,
    alias_wire,
    receipt_wire,
)
from graftwork.api.wire.base import List
from graftwork.core.nouns import Alias

router = APIRouter(prefix="/api/adapters", tags=["adapters"])

Number = Annotated[int, Path(ge=1)]
_PIECE = 1024 * 1024


@router.get("")
async def list_adapters(caller: Caller, platform: OnPlatform) -> List[AdapterWire]:
    """The project's adapters."""
    return List(data=[adapter_wire(view) for view in await platform.adapters.list(caller.project_id)])


@router.get("/{name}")
async def show_adapter(name: str, caller: Caller, platform: OnPlatform) -> AdapterWire:
    """One adapter: versions, aliases and their moves."""
    return adapter_wire(await platform.adapters.show(caller.project_id, name))


@router.get("/{name}/versions/{number}")
async def show_version(name: str, number: Number, caller: Caller, platform: OnPlatform) -> VersionReceipt:
    """One version with its receipt."""
    return receipt_wire(await platform.adapters.version(caller.project_id, f"{name}@{number}"))


@router.get("/{name}/versions/{number}/download", response_class=StreamingResponse)
async def download_version(
    name: str, number: Number, caller: Caller, platform: OnPlatform
) -> StreamingResponse:
    """A zip of exactly the version's files, in PEFT's format."""
    view, whole, size = await platform.adapters.download(caller.project_id, f"{name}@{number}")
    filename = view.name.replace("@", "-") + ".zip"
    headers = {"content-disposition": f'attachment; filename="{filename}"', "content-length": str(size)}
    return StreamingResponse(_pieces(whole), media_type="application/zip", headers=headers)


@router.post("/{name}/promote")
async def promote(
    name: str, body: PromoteBody, caller: Caller, platform: OnPlatform, gateway: OnGateway
) -> AliasWire:
    """Point an alias at a version, by compare-and-set. The next request follows it."""
    moved = await platform.adapters.promote(
        caller.project_id,
        name,
        body.version,
        actor=caller.key_id,
        reason=body.reason,
        alias=body.alias,
        force=body.force,
        expected_generation=body.expected_generation,
    )
    await gateway.refresh()
    return await _moved(platform, caller.project_id, name, moved)


@router.post("/{name}/rollback")
async def rollback(
    name: str, body: RollbackBody, caller: Caller, platform: OnPlatform, gateway: OnGateway
) -> AliasWire:
    """Point an alias back at the version before its last move."""
    moved = await platform.adapters.rollback(
        caller.project_id,
        name,
        actor=caller.key_id,
        reason=body.reason,
        alias=body.alias,
        expected_generation=body.expected_generation,
    )
    await gateway.refresh()
    return await _moved(platform, caller.project_id, name, moved)


@router.delete("/{name}/versions/{number}")
async def delete_version(
    name: str, number: Number, caller: Caller, platform: OnPlatform, gateway: OnGateway
) -> VersionDeleted:
    """Delete a version that no alias points at; its names stop answering at once."""
    reference = f"{name}@{number}"
    version = await platform.adapters.delete_version(caller.project_id, reference)
    await gateway.refresh()
    return VersionDeleted(name=reference, id=version.id)


def _pieces(whole: IO[bytes]) -> Iterator[bytes]:
    with whole:
        while piece := whole.read(_PIECE):
            yield piece


async def _moved(platform: Platform, project_id: str, name: str, alias: Alias) -> AliasWire:
    view = await platform.adapters.version(project_id, f"{name}@{alias.name}")
    return alias_wire(alias, view.version.number)
