"""``/api/sweeps``: small searches whose trials are trained together."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query

from graftwork.api.auth import Caller, OnPlatform
from graftwork.api.wire.base import List
from graftwork.api.wire.sweeps import CreateSweep, Sweep, sweep_wire

router = APIRouter(prefix="/api/sweeps", tags=["sweeps"])


@router.post("")
async def create_sweep(body: CreateSweep, caller: Caller, platform: OnPlatform) -> Sweep:
    """Begin a sweep: the worse trials are stopped early, the best is registered as any job's adapter is."""
    return sweep_wire(await platform.sweeps.create(caller.project_id, body.request()))


@router.get("")
async def list_sweeps(
    caller: Caller,
    platform: OnPlatform,
    after: str | None = None,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
) -> List[Sweep]:
    """The project's sweeps, newest first."""
    page = await platform.sweeps.list(caller.project_id, after=after, limit=limit)
    return List(data=[sweep_wire(view) for view in page.items], has_more=page.has_more)


@router.get("/{sweep_id}")
async def show_sweep(sweep_id: str, caller: Caller, platform: OnPlatform) -> Sweep:
    """One sweep: its trials with their losses and costs."""
    return sweep_wire(await platform.sweeps.get(caller.project_id, sweep_id))


@router.post("/{sweep_id}/cancel")
async def cancel_sweep(sweep_id: str, caller: Caller, platform: OnPlatform) -> Sweep:
    """End a sweep and all its trials; what was trained is billed."""
    return sweep_wire(await platform.sweeps.cancel(caller.project_id, sweep_id))
