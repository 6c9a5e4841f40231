"""Placements: which weights are wanted on which endpoint, and how far that is."""

from __future__ import annotations

from typing import Any

from sqlalchemy import or_

from graftwork.core.ids import PLACEMENT, new_id
from graftwork.core.nouns import Placement
from graftwork.core.states import PlacementState
from graftwork.store.claims import POKED, Claim, Leases
from graftwork.store.session import Items, Repository, Session
from graftwork.store.tables import placements


class Placements(Repository):
    """Placements of weights on endpoints. For reconcilers and services: no tenant is checked."""

    def __init__(self, session: Session) -> None:
        super().__init__(session)
        self._leases = Leases(session, placements, Placement)

    async def ensure(self, endpoint_id: str, project_id: str, weights: str, at: float) -> Placement:
        """The placement of some weights on an endpoint: created, wanted again, or as it is."""
        fresh = Placement(
            id=new_id(PLACEMENT),
            endpoint_id=endpoint_id,
            project_id=project_id,
            weights=weights,
            state=PlacementState.PENDING,
            generation=0,
            created_at=at,
        )
        if await self._insert_new(placements, fresh):
            self._touch()
            return fresh
        mine = (placements.c.endpoint_id == endpoint_id, placements.c.weights == weights)
        dropped = or_(placements.c.wanted.is_(False), placements.c.state == PlacementState.REMOVING)
        again = {"wanted": True, "state": PlacementState.PENDING, "reason": None, "next_at": POKED}
        if await self._change(placements, *mine, dropped, **again):
            self._touch()
        return await self._one(Placement, placements, *mine) or fresh

    async def get(self, id: str) -> Placement | None:
        """One placement."""
        return await self._one(Placement, placements, placements.c.id == id)

    async def by_weights(self, weights: str) -> Placement | None:
        """The wanted placement of some weights, a ready one before others."""
        mine = (placements.c.weights == weights, placements.c.wanted)
        order = [placements.c.state != PlacementState.READY, placements.c.created_at, placements.c.id]
        found = await self._all(Placement, placements, *mine, order=order, limit=1)
        return found[0] if found else None

    async def unwant(self, id: str) -> bool:
        """Ask for the removal of a placement; False if it was not wanted."""
        self._touch()
        wanted = (placements.c.id == id, placements.c.wanted)
        return await self._change(placements, *wanted, wanted=False, next_at=POKED)

    async def poke(self, endpoint_id: str) -> None:
        """Have all placements of an endpoint looked at now: its engine came up anew."""
        await self._change(placements, placements.c.endpoint_id == endpoint_id, next_at=POKED)

    async def claim(self, owner: str, limit: int = 1, lease_seconds: float = 30.0) -> list[Claim[Placement]]:
        """Lease up to ``limit`` placements that are due."""
        return await self._leases.claim(owner, limit=limit, lease_seconds=lease_seconds)

    async def renew(self, claim: Claim[Placement], seconds: float) -> bool:
        """Extend a lease; False if it was lost."""
        return await self._leases.renew(claim, claim.item.id, seconds)

    async def release(self, claim: Claim[Placement], next_at: float) -> bool:
        """Give a placement back until ``next_at``; False if the lease was lost."""
        return await self._leases.release(claim, claim.item.id, next_at)

    async def apply(self, claim: Claim[Placement], **changes: Any) -> bool:
        """Change a claimed placement, guarded by the lease and by ``wanted`` as it was loaded.

        Returns:
            False if the lease was lost or the owner changed their mind meanwhile: throw the work away.
        """
        guard = [placements.c.wanted.is_(claim.item.wanted)]
        if not await self._leases.apply(claim, claim.item.id, guard, changes):
            return False
        if changes.keys() - {"next_at", "probe"}:
            self._touch()
        return True

    async def all_for_snapshot(self) -> Items[Placement]:
        """All wanted placements."""
        return await self._all(Placement, placements, placements.c.wanted, order=[placements.c.id])

    async def list(self, endpoint_id: str) -> Items[Placement]:
        """All placements of an endpoint, unwanted ones too, oldest first."""
        return await self._all(
            Placement,
            placements,
            placements.c.endpoint_id == endpoint_id,
            order=[placements.c.created_at, placements.c.id],
        )
