"""The jobs' logs: messages and metrics, numbered in order."""

from __future__ import annotations

from typing import Any

from sqlalchemy import select, update

from graftwork.core.ids import EVENT, new_id
from graftwork.core.nouns import JobEvent
from graftwork.store.pages import Page, page
from graftwork.store.session import Items, Repository
from graftwork.store.tables import job_events, jobs


class JobEvents(Repository):
    """Log lines of jobs. The caller has checked that the job is the tenant's."""

    async def add(
        self,
        job_id: str,
        *,
        level: str,
        message: str,
        type: str = "message",
        data: dict[str, Any] | None = None,
        at: float | None = None,
        dedupe: str | None = None,
    ) -> JobEvent:
        """Append a line; ``seq`` grows. With ``dedupe`` the same line again returns the first one.

        A trainer's line may be older than what was said here before it came, and its machine's clock may be
        ahead: no line is dated before the one before it or after now, so a log never goes back in time.
        """
        seq = await self._session.scalar(
            # Counting in the job's row makes concurrent writers queue up instead of colliding.
            update(jobs).where(jobs.c.id == job_id).values(events=jobs.c.events + 1).returning(jobs.c.events)
        )
        if dedupe is not None:
            same = (job_events.c.job_id == job_id, job_events.c.dedupe == dedupe)
            known = await self._one(JobEvent, job_events, *same)
            if known is not None:
                return known
        before = select(job_events.c.created_at).where(job_events.c.job_id == job_id)
        last = await self._session.scalar(before.order_by(job_events.c.seq.desc()).limit(1))
        now = await self._session.now()
        event = JobEvent(
            id=new_id(EVENT),
            job_id=job_id,
            seq=seq,
            created_at=max(now if at is None else min(at, now), last or 0.0),
            level=level,
            type=type,
            message=message,
            data=data,
        )
        await self._insert(job_events, event, dedupe=dedupe)
        return event

    async def since(self, job_id: str, seq: int, limit: int) -> Items[JobEvent]:
        """Up to ``limit`` lines behind number ``seq``, oldest first: for following a log."""
        return await self._all(
            JobEvent,
            job_events,
            job_events.c.job_id == job_id,
            job_events.c.seq > seq,
            order=[job_events.c.seq],
            limit=limit,
        )

    async def latest(self, job_id: str, type: str) -> JobEvent | None:
        """The newest line of one type."""
        mine = (job_events.c.job_id == job_id, job_events.c.type == type)
        found = await self._all(JobEvent, job_events, *mine, order=[job_events.c.seq.desc()], limit=1)
        return found[0] if found else None

    async def list(self, job_id: str, *, after: str | None = None, limit: int) -> Page[JobEvent]:
        """A page of the log, newest first; ``after`` is an event's id."""
        scope = [job_events.c.job_id == job_id]
        return await page(self._session, JobEvent, job_events, scope, keys=("seq",), after=after, limit=limit)
