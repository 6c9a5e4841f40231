"""Mirrors: what run folders say of each step is told to trackers, and a tracker that is away hears it later.

Jobs know nothing of this: it reads their run folders on its own, behind a cursor of its own for each tracker.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from graftwork.control.bell import Bell
from graftwork.control.plan import plan_of
from graftwork.control.reconcilers.base import LeaseLost, Pace, Reconciler, Rows
from graftwork.control.services.job_views import organization_of
from graftwork.core.clock import Clock
from graftwork.core.errors import PlatformError
from graftwork.core.nouns import Job, Mirror, Run
from graftwork.core.states import TERMINAL, Phase
from graftwork.runs.documents import Metrics
from graftwork.runs.reader import RunReader
from graftwork.store import Claim, Store, Tx
from graftwork.trackers.port import Ending, Subject, Tracker

_FILES = 200
"""Event files told in one go."""
_ENDINGS: dict[Phase, Ending] = {
    Phase.DONE: "succeeded",
    Phase.FAILED: "failed",
    Phase.CANCELLED: "cancelled",
}


class MirrorReconciler(Reconciler[Mirror]):
    """Tells one tracker of all jobs."""

    name = "mirrors"

    def __init__(
        self,
        store: Store,
        tracker: Tracker,
        reader: Callable[[Job], RunReader],
        *,
        clock: Clock,
        bell: Bell,
        pace: Pace,
        owner: str,
    ) -> None:
        super().__init__(store, clock, bell, pace, owner)
        self._tracker = tracker
        self._reader = reader

    def rows(self, tx: Tx) -> Rows[Mirror]:
        """See ``Reconciler.rows``."""
        return _OfOne(tx, self._tracker.name)

    def key(self, item: Mirror) -> str:
        """See ``Reconciler.key``."""
        return item.id

    async def _claim(self, limit: int) -> list[Claim[Mirror]]:
        async with self.store.begin() as tx:
            await tx.mirrors.begin(self._tracker.name, self.clock.now())
        return await super()._claim(limit)

    async def work(self, claim: Claim[Mirror]) -> float:
        """Tell what is new of one job; 0 if there may be more at once."""
        mirror = claim.item
        async with self.store.read() as tx:
            job = await tx.jobs.any_get(mirror.job_id)
            if job is None:
                raise PlatformError(f"The job {mirror.job_id} of a mirror is gone.", code="job_missing")
            runs = await tx.runs.of_job(job.id)
            group = await _group(tx, job)
        over = job.phase in TERMINAL  # read before the events: whatever is written is there by then
        run = _next(mirror, runs)
        if run is None:
            return await self._end(claim, job, group) if over else self.pace.poll
        after = mirror.cursor if run.fence == mirror.fence else 0
        events, cursor = await asyncio.to_thread(self._reader(job).events, run.fence, after, _FILES)
        fresh = _rising([e for e in events if isinstance(e, Metrics)], mirror.step)
        changes: dict[str, object] = {"fence": run.fence, "cursor": cursor}
        if fresh:
            remote = await self._tracker.tell(_subject(mirror, job, group, runs), fresh)
            changes |= {"step": fresh[-1].step, "remote": remote}
        if cursor > after or run.fence != mirror.fence:
            await self._note(claim, changes)
            return 0.0 if cursor > after else self.pace.poll
        later = any(other.fence > run.fence for other in runs)
        if later or over:
            return await self._skip(claim, job, group, runs, run.fence)
        return self.pace.poll

    async def give_up(self, claim: Claim[Mirror], error: Exception) -> float:
        """A tracker that is away for long is asked less often, for as long as it takes."""
        return self.pace.backoff_limit

    async def _skip(
        self, claim: Claim[Mirror], job: Job, group: str, runs: Sequence[Run], fence: int
    ) -> float:
        """This attempt has nothing more to say: go to the next one, or end."""
        following = min((run.fence for run in runs if run.fence > fence), default=None)
        if following is None:
            return await self._end(claim, job, group)
        await self._note(claim, {"fence": following, "cursor": 0})
        return 0.0

    async def _end(self, claim: Claim[Mirror], job: Job, group: str) -> float:
        mirror = claim.item
        if mirror.remote is not None:
            subject = _subject(mirror, job, group, ())
            await self._tracker.end(subject, _ENDINGS[job.phase], job.finished_at or self.clock.now())
        await self._note(claim, {"done": True})
        return self.pace.backoff_limit

    async def _note(self, claim: Claim[Mirror], changes: dict[str, object]) -> None:
        async with self.store.begin() as tx:
            if not await tx.mirrors.apply(claim, **changes):
                raise LeaseLost


class _OfOne:
    """The mirrors of one tracker."""

    def __init__(self, tx: Tx, tracker: str) -> None:
        self._mirrors = tx.mirrors
        self._tracker = tracker

    async def claim(self, owner: str, limit: int = 1, lease_seconds: float = 30.0) -> list[Claim[Mirror]]:
        return await self._mirrors.claim(owner, limit, lease_seconds, self._tracker)

    async def renew(self, claim: Claim[Mirror], seconds: float) -> bool:
        return await self._mirrors.renew(claim, seconds)

    async def release(self, claim: Claim[Mirror], next_at: float) -> bool:
        return await self._mirrors.release(claim, next_at)


def _next(mirror: Mirror, runs: Sequence[Run]) -> Run | None:
    """The attempt that is being told, or the first."""
    return next((run for run in runs if run.fence >= mirror.fence), None)


def _rising(events: Sequence[Metrics], step: int) -> list[Metrics]:
    """Those above ``step``, each step once: a resumed attempt repeats the steps after its checkpoint."""
    found: list[Metrics] = []
    for event in events:
        if event.step > step:
            found.append(event)
            step = event.step
    return found


def _subject(mirror: Mirror, job: Job, group: str, runs: Sequence[Run]) -> Subject:
    tail = job.id.rpartition("-")[2]
    return Subject(
        job_id=job.id,
        group=group,
        name=f"{job.suffix or 'adapter'}-{tail[-8:]}",
        parameters=_parameters(job),
        started_at=runs[0].created_at if runs else job.created_at,
        remote=mirror.remote,
        step=mirror.step,
    )


def _parameters(job: Job) -> dict[str, str]:
    """What a job is trained with, as far as it is planned."""
    spec = plan_of(job).spec
    chosen: dict[str, object] = {"base": job.base, "seed": job.seed}
    if spec is not None:
        chosen |= {"method": spec.method, "base_revision": spec.base.revision, "train_rows": spec.train.rows}
        chosen |= {f"lora_{key}": value for key, value in spec.lora.model_dump().items()}
        chosen |= spec.schedule.model_dump(exclude={"explained"}, exclude_none=True)
    return {key: str(value) for key, value in chosen.items()}


async def _group(tx: Tx, job: Job) -> str:
    organization = await organization_of(tx, job.project_id)
    project = await tx.projects.get(job.project_id)
    return f"{organization.name}/{project.name if project else job.project_id}"
