"""``/api/keys``."""

from __future__ import annotations

from fastapi import APIRouter

from graftwork.api.auth import Caller, OnGateway, OnPlatform
from graftwork.api.wire.base import List
from graftwork.api.wire.keys import CreateKey, Key, KeyRevoked, NewKey, key_wire, new_key_wire

router = APIRouter(prefix="/api/keys", tags=["keys"])


@router.get("")
async def list_keys(caller: Caller, platform: OnPlatform) -> List[Key]:
    """The project's keys, revoked ones too."""
    return List(data=[key_wire(key) for key in await platform.keys.list(caller.project_id)])


@router.post("")
async def create_key(body: CreateKey, caller: Caller, platform: OnPlatform, gateway: OnGateway) -> NewKey:
    """Make a key. Its text is in this answer and nowhere else."""
    made = await platform.keys.create(caller.project_id, name=body.name, expires_after=body.expires_after)
    await gateway.refresh()
    return new_key_wire(made)


@router.delete("/{key_id}")
async def revoke_key(key_id: str, caller: Caller, platform: OnPlatform, gateway: OnGateway) -> KeyRevoked:
    """Revoke a key; when this answers, it is refused everywhere on this server."""
    await platform.keys.revoke(caller.project_id, key_id)
    await gateway.refresh()
    return KeyRevoked(id=key_id)
