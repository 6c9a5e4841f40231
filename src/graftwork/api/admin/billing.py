"""``/api/bill`` and ``/api/usage``."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query

from graftwork.api.auth import Caller, OnPlatform
from graftwork.api.wire.base import List
from graftwork.api.wire.billing import BillWire, Usage, bill_wire, usage_wire

router = APIRouter(prefix="/api", tags=["billing"])

Time = Annotated[float | None, Query(ge=0, le=1e11)]


@router.get("/bill")
async def bill(caller: Caller, platform: OnPlatform, since: Time = None, until: Time = None) -> BillWire:
    """What the project owes: one line for each kind, model and price. Times are unix seconds."""
    found = await platform.billing.bill(caller.project_id, since=since, until=until)
    return bill_wire(found, await platform.billing.budget(caller.project_id))


@router.get("/usage")
async def usage(
    caller: Caller,
    platform: OnPlatform,
    since: Time = None,
    until: Time = None,
    after: str | None = None,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
) -> List[Usage]:
    """The single entries behind the bill, newest first."""
    page = await platform.billing.usage(caller.project_id, since=since, until=until, after=after, limit=limit)
    return List(data=[usage_wire(entry) for entry in page.items], has_more=page.has_more)
