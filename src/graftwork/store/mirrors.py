"""How far each job's metrics were told to each tracker."""

from __future__ import annotations

from typing import Any

from sqlalchemy import select, true

from graftwork.core.ids import MIRROR, new_id
from graftwork.core.nouns import Mirror
from graftwork.store.claims import POKED, Claim, Leases
from graftwork.store.session import Items, Repository, Session
from graftwork.store.tables import mirrors, runs


class Mirrors(Repository):
    """Mirrors of jobs. For reconcilers: no tenant is checked."""

    def __init__(self, session: Session) -> None:
        super().__init__(session)
        self._leases = Leases(session, mirrors, Mirror)

    async def begin(self, tracker: str, at: float, limit: int = 100) -> int:
        """Have the jobs mirrored that have a run and are not known to a tracker; how many those were."""
        known = select(mirrors.c.job_id).where(mirrors.c.tracker == tracker)
        missing = select(runs.c.job_id).distinct().where(runs.c.job_id.not_in(known)).limit(limit)
        jobs = [row.job_id for row in await self._session.rows(missing)]
        for job_id in jobs:
            fresh = Mirror(id=new_id(MIRROR), job_id=job_id, tracker=tracker, created_at=at)
            await self._insert_new(mirrors, fresh, next_at=POKED)
        return len(jobs)

    async def of_job(self, job_id: str) -> Items[Mirror]:
        """All mirrors of a job."""
        return await self._all(Mirror, mirrors, mirrors.c.job_id == job_id, order=[mirrors.c.tracker])

    async def claim(
        self, owner: str, limit: int = 1, lease_seconds: float = 30.0, tracker: str | None = None
    ) -> Items[Claim[Mirror]]:
        """Lease up to ``limit`` mirrors (of one tracker) that have something to be told."""
        whose = true() if tracker is None else mirrors.c.tracker == tracker
        where = [mirrors.c.done.is_(False), whose]
        return await self._leases.claim(owner, limit=limit, lease_seconds=lease_seconds, where=where)

    async def renew(self, claim: Claim[Mirror], seconds: float) -> bool:
        """Extend a lease; False if it was lost."""
        return await self._leases.renew(claim, claim.item.id, seconds)

    async def release(self, claim: Claim[Mirror], next_at: float) -> bool:
        """Give a mirror back until ``next_at``; False if the lease was lost."""
        return await self._leases.release(claim, claim.item.id, next_at)

    async def apply(self, claim: Claim[Mirror], **changes: Any) -> bool:
        """Note what was told; False if the lease was lost."""
        return await self._leases.apply(claim, claim.item.id, [], changes)
