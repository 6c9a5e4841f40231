"""Sweeps: trials are created, compared at each rung, the worse are paused, and the best goes to the end.

The sweep's row says who is in; each look makes the jobs' wants agree with it, so a crash between the two is
mended by the next look. Stopped trials are paused, not ended: should the best fail later, the next one takes
its place. When the best is registered, the others are cancelled, and pay for what they trained.
"""

from __future__ import annotations

from dataclasses import dataclass

from graftwork.control.bell import Bell
from graftwork.control.halving import Rung, Standing, holds, judge, rungs
from graftwork.control.plan import plan_of
from graftwork.control.reconcilers.base import LeaseLost, Pace, Reconciler, Rows
from graftwork.control.services.jobs import PAUSABLE, JobsService
from graftwork.control.services.sweeps import request_of
from graftwork.core.clock import Clock
from graftwork.core.errors import UserError
from graftwork.core.nouns import Job, Json, Sweep
from graftwork.core.states import TERMINAL, Phase, Want
from graftwork.store import Claim, Store, Tx

REST = 3600.0
_BACK = 200
"""Newest events of a trial among which its held-out losses are looked for."""
_BAD = frozenset({Phase.FAILED, Phase.CANCELLED})


@dataclass(frozen=True, slots=True)
class Seen:
    """A trial and its job as they are now."""

    trial: Json
    job: Job
    standing: Standing


class SweepReconciler(Reconciler[Sweep]):
    """Brings sweeps to their ends.

    Args:
        jobs: creates the trials' jobs, as any customer's request does.
        watch: seconds between two looks at a running sweep.
    """

    name = "sweeps"

    def __init__(
        self,
        store: Store,
        jobs: JobsService,
        clock: Clock,
        bell: Bell,
        pace: Pace,
        owner: str,
        watch: float = 1.0,
    ) -> None:
        super().__init__(store, clock, bell, pace, owner)
        self._jobs = jobs
        self._watch = watch

    def rows(self, tx: Tx) -> Rows[Sweep]:
        """Sweeps."""
        return tx.sweeps

    def key(self, item: Sweep) -> str:
        """The sweep's id."""
        return item.id

    async def work(self, claim: Claim[Sweep]) -> float:
        """One look: begin what is to begin, judge what can be judged, tell the jobs."""
        sweep = claim.item
        if sweep.want is Want.CANCEL:
            return await self._end(claim, sweep.trials, "cancelled")
        try:
            trials = [await self._begun(sweep, trial) for trial in sweep.trials]
        except UserError as error:
            async with self.store.read() as tx:
                known = (await tx.sweeps.get(sweep.project_id, sweep.id) or sweep).trials
            return await self._end(claim, known, "failed", message=error.text)
        ladder = rungs(len(trials))
        seen = [await self._see(ladder, sweep.rung, trial) for trial in trials]
        rung = _decide(ladder, sweep.rung, seen)
        if rung >= len(ladder):
            best = _runner_up(seen)
            if best is None:
                why = "Every trial failed: look at the jobs' errors."
                return await self._end(claim, trials, "failed", rung=rung, message=why)
            if best.job.phase is Phase.DONE:
                best.trial["state"] = "best"
                return await self._end(claim, trials, "succeeded", rung=rung, best=best.job.id)
        await self._apply(claim, trials=trials, rung=rung)
        for one in seen:
            await self._tell(one, hold=rung == sweep.rung and holds(ladder, rung, one.standing))
        return self._watch

    async def _begun(self, sweep: Sweep, trial: Json) -> Json:
        """The trial with its job, which is created once whatever happens."""
        if trial["job"] is not None:
            return dict(trial)
        request = request_of(sweep.request, trial, sweep.id)
        key = f"{sweep.id}:{trial['number']}"
        view = await self._jobs.create(sweep.project_id, request, idempotency_key=key)
        return {**trial, "job": view.job.id}

    async def _see(self, ladder: list[Rung], rung: int, trial: Json) -> Seen:
        async with self.store.read() as tx:
            job = await tx.jobs.any_get(trial["job"])
            if job is None:
                raise LeaseLost
            events = (await tx.job_events.list(job.id, after=None, limit=_BACK)).items
        plan = plan_of(job)
        total = plan.spec.schedule.total_steps if plan.spec is not None else 0
        share = job.progress / total if total else 0.0
        losses: list[float] = list(trial["losses"])
        if trial["state"] == "in" and len(losses) == rung < len(ladder):
            at = ladder[rung].at * total
            measured = {
                e.data["step"]: e.data["valid_loss"] for e in events if e.data and "valid_loss" in e.data
            }
            there = [step for step in measured if total and step >= at]
            if there:
                losses.append(measured[min(there)])
            elif plan.trained is not None and plan.trained.valid_loss is not None:
                losses.append(plan.trained.valid_loss)
        trial["losses"] = losses
        if job.phase in _BAD and trial["state"] == "in":
            trial["state"] = "failed"
        loss = losses[rung] if len(losses) > rung else None
        over = job.phase in _BAD or plan.trained is not None
        return Seen(trial, job, Standing(trial["number"], share, loss, over))

    async def _tell(self, one: Seen, *, hold: bool) -> None:
        """Make the job want what the sweep wants of it; what its owner ended stays ended."""
        wanted = Want.RUN if one.trial["state"] == "in" and not hold else Want.PAUSE
        job = one.job
        if job.phase in TERMINAL or job.want in {Want.CANCEL, wanted}:
            return
        if wanted is Want.RUN or job.phase in PAUSABLE:
            async with self.store.begin() as tx:
                await tx.jobs.set_want(job.project_id, job.id, wanted)

    async def _end(
        self, claim: Claim[Sweep], trials: list[Json], state: str, *, rung: int | None = None, **told: object
    ) -> float:
        """Cancel what has not ended; once everything has, and is paid for, write the end down."""
        left = 0
        for trial in trials:
            if trial["job"] is None or trial["job"] == told.get("best"):
                continue
            async with self.store.begin() as tx:
                await tx.jobs.set_want(claim.item.project_id, trial["job"], Want.CANCEL)
                job = await tx.jobs.any_get(trial["job"])
            left += job is not None and job.phase not in TERMINAL
        done = {"state": state, "finished_at": self.clock.now(), **told} if not left else {}
        await self._apply(claim, trials=trials, rung=claim.item.rung if rung is None else rung, **done)
        return self._watch if left else REST

    async def _apply(self, claim: Claim[Sweep], **changes: object) -> None:
        async with self.store.begin() as tx:
            if not await tx.sweeps.apply(claim, **changes):
                raise LeaseLost


def _decide(ladder: list[Rung], rung: int, seen: list[Seen]) -> int:
    """Decide as many rungs as can be; trials' states are set. Returns the rungs decided by then."""
    if rung < len(ladder):
        verdict = judge(ladder, rung, [one.standing for one in seen if one.trial["state"] == "in"])
        if verdict is None:
            return rung
        for one in seen:
            if verdict.get(one.trial["number"]) == "stop" and one.trial["state"] == "in":
                one.trial["state"] = "stopped"
        rung += 1
    return rung


def _runner_up(seen: list[Seen]) -> Seen | None:
    """The trial that is in; should it have failed, the furthest and best of the stopped takes its place."""
    inside = [one for one in seen if one.trial["state"] in {"in", "best"}]
    if inside:
        return inside[0]
    stopped = [one for one in seen if one.trial["state"] == "stopped" and one.trial["losses"]]
    if not stopped:
        return None
    best = min(stopped, key=lambda one: (-len(one.trial["losses"]), one.trial["losses"][-1]))
    best.trial["state"] = "in"
    return best
