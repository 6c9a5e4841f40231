"""Runs: the attempts to execute jobs."""

from __future__ import annotations

from sqlalchemy import select

from graftwork.core.nouns import Job, Run
from graftwork.core.states import ON_MACHINE, Outcome, Phase
from graftwork.store.session import Items, Repository
from graftwork.store.tables import jobs, runs


class Runs(Repository):
    """Attempts, by job and fence. For reconcilers: no tenant is checked."""

    async def create(self, run: Run) -> bool:
        """Add an attempt; the same again is a no-op (False)."""
        return await self._insert_new(runs, run)

    async def get(self, job_id: str, fence: int) -> Run | None:
        """One attempt."""
        return await self._one(Run, runs, runs.c.job_id == job_id, runs.c.fence == fence)

    async def of_job(self, job_id: str) -> Items[Run]:
        """All attempts of a job, in order."""
        return await self._all(Run, runs, runs.c.job_id == job_id, order=[runs.c.fence])

    async def latest(self, job_id: str) -> Run | None:
        """The attempt with the highest fence."""
        found = await self._all(Run, runs, runs.c.job_id == job_id, order=[runs.c.fence.desc()], limit=1)
        return found[0] if found else None

    async def advance(self, job_id: str, fence: int, cursor: int) -> bool:
        """Note how far the attempt's events were read; never backwards (False)."""
        mine = (runs.c.job_id == job_id, runs.c.fence == fence, runs.c.cursor < cursor)
        return await self._change(runs, *mine, cursor=cursor)

    async def finish(self, job_id: str, fence: int, outcome: Outcome, at: float) -> bool:
        """Note how the attempt ended; the first outcome stays (False for a later one)."""
        mine = (runs.c.job_id == job_id, runs.c.fence == fence, runs.c.outcome.is_(None))
        return await self._change(runs, *mine, outcome=outcome, ended_at=at)

    async def on(self, machine: str) -> Items[Run]:
        """All runs that a machine was ever given, in the order they came."""
        return await self._all(Run, runs, runs.c.machine == machine, order=[runs.c.created_at, runs.c.job_id])

    async def aboard(self, machine: str) -> Items[Run]:
        """The runs that have not left a machine, in the order they came."""
        here = (runs.c.machine == machine, runs.c.off_at.is_(None))
        return await self._all(Run, runs, *here, order=[runs.c.created_at, runs.c.job_id])

    async def crew(self, machine: str) -> Items[Job]:
        """The jobs on a machine: those whose current attempt is aboard, in the order in which they came."""
        here = (runs.c.machine == machine, runs.c.off_at.is_(None), jobs.c.phase.in_(ON_MACHINE))
        current = (jobs.c.id == runs.c.job_id, jobs.c.fence == runs.c.fence)
        return await self._all(Job, jobs, *here, *current, order=[runs.c.created_at, runs.c.job_id])

    async def prepared(self, machine: str, joining: str | None) -> Items[Run]:
        """Of those the ones whose run folder is written, as far as their jobs say; and that of ``joining``, a
        job that has just written its own."""
        preparing = (
            select(jobs.c.id)
            .where(jobs.c.id == runs.c.job_id, jobs.c.fence == runs.c.fence)
            .where(jobs.c.phase == Phase.PROVISIONING, jobs.c.id != (joining or ""))
        )
        here = (runs.c.machine == machine, runs.c.off_at.is_(None), ~preparing.exists())
        return await self._all(Run, runs, *here, order=[runs.c.created_at, runs.c.job_id])

    async def leave(self, job_id: str, fence: int, at: float) -> bool:
        """Note that an attempt has left its machine; the first time stays (False for a later one)."""
        mine = (runs.c.job_id == job_id, runs.c.fence == fence, runs.c.off_at.is_(None))
        return await self._change(runs, *mine, off_at=at)

    async def bump(self, job_id: str, fence: int, why: str) -> bool:
        """Want an attempt that is aboard off its machine for now; the first reason stays."""
        mine = (
            runs.c.job_id == job_id,
            runs.c.fence == fence,
            runs.c.off_at.is_(None),
            runs.c.bumped.is_(None),
        )
        return await self._change(runs, *mine, bumped=why)

    async def list(self, job_id: str) -> Items[Run]:
        """All attempts of a job, first to last."""
        return await self._all(Run, runs, runs.c.job_id == job_id, order=[runs.c.fence])
