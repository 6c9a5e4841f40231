"""``/v1/chat/completions``: stored ones. New ones are the gateway's."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query

from graftwork.api.auth import Caller, OnPlatform
from graftwork.api.wire.kept import Deleted, DescribeBody, completion_wire, messages_wire

router = APIRouter(prefix="/v1/chat/completions", tags=["stored completions"])

Json = dict[str, Any]
Limit = Annotated[int, Query(ge=1, le=100)]


@router.get("")
async def list_completions(
    caller: Caller,
    platform: OnPlatform,
    model: str | None = None,
    after: str | None = None,
    limit: Limit = 20,
    order: Literal["asc", "desc"] = "asc",
) -> Json:
    """The project's kept requests, by time."""
    page = await platform.kept.page(caller.project_id, model=model, after=after, limit=limit, order=order)
    return _list([completion_wire(kept) for kept in page.items], page.has_more)


@router.get("/{completion_id}")
async def get_completion(completion_id: str, caller: Caller, platform: OnPlatform) -> Json:
    """One kept request with its answer."""
    return completion_wire(await platform.kept.get(caller.project_id, completion_id))


@router.post("/{completion_id}")
async def update_completion(
    completion_id: str, body: DescribeBody, caller: Caller, platform: OnPlatform
) -> Json:
    """Replace its metadata."""
    kept = await platform.kept.describe(caller.project_id, completion_id, body.metadata)
    return completion_wire(kept)


@router.delete("/{completion_id}")
async def delete_completion(completion_id: str, caller: Caller, platform: OnPlatform) -> Deleted:
    """Delete it for good."""
    await platform.kept.delete(caller.project_id, completion_id)
    return Deleted(id=completion_id)


@router.get("/{completion_id}/messages")
async def completion_messages(
    completion_id: str,
    caller: Caller,
    platform: OnPlatform,
    after: str | None = None,
    limit: Limit = 20,
    order: Literal["asc", "desc"] = "asc",
) -> Json:
    """The messages it was asked with."""
    found = messages_wire(await platform.kept.get(caller.project_id, completion_id))
    if order == "desc":
        found.reverse()
    ids = [message["id"] for message in found]
    start = ids.index(after) + 1 if after in ids else 0
    return _list(found[start : start + limit], start + limit < len(found))


def _list(data: list[Json], has_more: bool) -> Json:
    return {
        "object": "list",
        "data": data,
        "first_id": data[0]["id"] if data else None,
        "last_id": data[-1]["id"] if data else None,
        "has_more": has_more,
    }
