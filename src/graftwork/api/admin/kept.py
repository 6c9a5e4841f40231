"""``/api/kept``: what a project opts to have kept of its requests; and data sets out of them."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter

from graftwork.api.auth import Caller, OnPlatform
from graftwork.api.wire.files import file_wire
from graftwork.api.wire.kept import Forgotten, FromLogsBody, KeepingBody, Kept, kept_wire

router = APIRouter(tags=["kept requests"])


@router.get("/api/kept")
async def get_keeping(caller: Caller, platform: OnPlatform) -> Kept:
    """What the project opted for, and how much is kept. Nothing is, until it opts for it."""
    return kept_wire(await platform.kept.holdings(caller.project_id))


@router.put("/api/kept")
async def set_keeping(body: KeepingBody, caller: Caller, platform: OnPlatform) -> Kept:
    """Opt in or out: ``asked`` keeps requests sent with ``store: true``, ``all`` all but ``store: false``."""
    holdings = await platform.kept.opt(caller.project_id, mode=body.mode, days=body.days, redact=body.redact)
    return kept_wire(holdings)


@router.delete("/api/kept")
async def forget_kept(
    caller: Caller, platform: OnPlatform, model: str | None = None, before: float | None = None
) -> Forgotten:
    """Delete kept requests for good: of a model, of before a time (unix seconds), or all."""
    return Forgotten(deleted=await platform.kept.forget(caller.project_id, model=model, before=before))


@router.post("/api/datasets/from-logs")
async def dataset_from_logs(body: FromLogsBody, caller: Caller, platform: OnPlatform) -> dict[str, Any]:
    """A data set of the newest kept requests and their answers, as a new file under ``file``."""
    stored, report = await platform.kept.dataset(
        caller.project_id,
        model=body.model,
        since=body.since,
        until=body.until,
        limit=body.limit,
        near=body.near,
    )
    return {**report, "file": None if stored is None else file_wire(stored).model_dump()}
