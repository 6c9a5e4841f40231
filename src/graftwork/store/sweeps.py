"""Sweeps: searches over hyperparameters, claimed by their reconciler until they end."""

from __future__ import annotations

from typing import Any

from graftwork.core.nouns import Sweep
from graftwork.core.states import Want
from graftwork.store.claims import POKED, Claim, Leases
from graftwork.store.pages import Page, page
from graftwork.store.session import Items, Repository, Session
from graftwork.store.tables import sweeps

RUNNING = "running"
_UNFINISHED = sweeps.c.state == RUNNING


class Sweeps(Repository):
    """Sweeps of projects."""

    def __init__(self, session: Session) -> None:
        super().__init__(session)
        self._leases = Leases(session, sweeps, Sweep)

    async def create(self, sweep: Sweep) -> None:
        """Add a sweep."""
        await self._insert(sweeps, sweep)

    async def get(self, project_id: str, id: str) -> Sweep | None:
        """The project's sweep."""
        return await self._one(Sweep, sweeps, sweeps.c.project_id == project_id, sweeps.c.id == id)

    async def list(self, project_id: str, *, after: str | None = None, limit: int) -> Page[Sweep]:
        """A page of the project's sweeps, newest first."""
        scope = [sweeps.c.project_id == project_id]
        keys = ("created_at", "id")
        return await page(self._session, Sweep, sweeps, scope, keys=keys, after=after, limit=limit)

    async def cancel(self, project_id: str, id: str) -> bool:
        """Ask for the end of a sweep; False if there is no such running one."""
        mine = (sweeps.c.project_id == project_id, sweeps.c.id == id)
        return await self._change(sweeps, *mine, _UNFINISHED, want=Want.CANCEL, next_at=POKED)

    async def claim(self, owner: str, limit: int = 1, lease_seconds: float = 30.0) -> Items[Claim[Sweep]]:
        """Lease up to ``limit`` running sweeps that are due."""
        return await self._leases.claim(owner, limit=limit, lease_seconds=lease_seconds, where=[_UNFINISHED])

    async def renew(self, claim: Claim[Sweep], seconds: float) -> bool:
        """Extend a lease; False if it was lost."""
        return await self._leases.renew(claim, claim.item.id, seconds)

    async def release(self, claim: Claim[Sweep], next_at: float) -> bool:
        """Give a sweep back until ``next_at``; False if the lease was lost."""
        return await self._leases.release(claim, claim.item.id, next_at)

    async def apply(self, claim: Claim[Sweep], **changes: Any) -> bool:
        """Change a claimed sweep; False if the lease was lost: throw the work away."""
        return await self._leases.apply(claim, claim.item.id, [_UNFINISHED], changes)
