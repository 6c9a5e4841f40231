"""The job reconciler: which act a job needs now, its outcome written down under lease and fence."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from graftwork.control.bell import Bell
from graftwork.control.reconcilers.base import LeaseLost, Pace, Reconciler, Rows
from graftwork.control.reconcilers.jobs.admission import queued
from graftwork.control.reconcilers.jobs.context import Context
from graftwork.control.reconcilers.jobs.deploying import deploying, registering
from graftwork.control.reconcilers.jobs.endings import cancelled, given_up
from graftwork.control.reconcilers.jobs.evaluating import evaluating, evaluation_crashed, gating
from graftwork.control.reconcilers.jobs.launching import provisioning
from graftwork.control.reconcilers.jobs.planning import planning
from graftwork.control.reconcilers.jobs.step import Instead, Note, Step
from graftwork.control.reconcilers.jobs.validating import validating
from graftwork.control.reconcilers.jobs.watching import watch
from graftwork.core.errors import GraftworkError
from graftwork.core.nouns import Job
from graftwork.core.states import TERMINAL, Phase, Want
from graftwork.store import Claim, Tx

REST = 3600.0
"""Before a paused job is looked at again, unless its owner says something."""

Act = Callable[[Context, Job], Awaitable[Step]]

PHASES: dict[Phase, Act] = {
    Phase.VALIDATING: validating,
    Phase.PLANNING: planning,
    Phase.QUEUED: queued,
    Phase.PROVISIONING: provisioning,
    Phase.PREPARING: watch,
    Phase.TRAINING: watch,
    Phase.EVALUATING: evaluating,
    Phase.GATING: gating,
    Phase.REGISTERING: registering,
    Phase.DEPLOYING: deploying,
}
"""What is done in each phase. Paused jobs rest; ended ones are never claimed."""


class JobReconciler(Reconciler[Job]):
    """Brings jobs from validating to done. Any number may run; each job is worked on by one."""

    name = "jobs"

    def __init__(self, ctx: Context, bell: Bell, pace: Pace, owner: str) -> None:
        super().__init__(ctx.store, ctx.clock, bell, pace, owner)
        self.ctx = ctx

    def rows(self, tx: Tx) -> Rows[Job]:
        """Jobs."""
        return tx.jobs

    def key(self, item: Job) -> str:
        """The job's id."""
        return item.id

    async def work(self, claim: Claim[Job]) -> float:
        """Act and apply until the job has to wait for something."""
        while True:
            step = await self.act(claim.item)
            claim = await self.apply(claim, step)
            if claim.item.phase in TERMINAL:
                return REST
            if step.delay > 0:
                return step.delay

    async def overtaken(self, claim: Claim[Job]) -> bool:
        """A cancel does not wait for the end of an evaluation."""
        async with self.store.read() as tx:
            job = await tx.jobs.any_get(claim.item.id)
        return job is not None and job.want is Want.CANCEL and claim.item.want is not Want.CANCEL

    async def act(self, job: Job) -> Step:
        """What the job needs now: no transaction is open."""
        if job.want is Want.CANCEL:
            return await cancelled(self.ctx, job)
        if job.phase is Phase.PAUSED:
            return Step(move=Phase.QUEUED, notes=_RESUMED) if job.want is Want.RUN else Step(delay=REST)
        if job.phase is Phase.QUEUED and job.want is Want.PAUSE:
            return Step(move=Phase.PAUSED, notes=_PAUSED)
        return await PHASES[job.phase](self.ctx, job)

    async def give_up(self, claim: Claim[Job], error: Exception) -> float:
        """Failing again and again: an evaluation closes the gate, anything else ends the job."""
        why = error.text if isinstance(error, GraftworkError) else f"internal error ({type(error).__name__})"
        async with self.store.read() as tx:
            job = await tx.jobs.any_get(claim.item.id)
        if job is None or job.phase in TERMINAL:
            return REST
        if job.phase is Phase.EVALUATING:
            step = await evaluation_crashed(self.ctx, job, why)
        else:
            step = await given_up(self.ctx, job, error, why)
        await self.apply(Claim(job, claim.token, claim.until), step)
        return step.delay

    async def apply(self, claim: Claim[Job], step: Step) -> Claim[Job]:
        """Write one step down, or nothing of it.

        Returns:
            The claim with the job as it is now.

        Raises:
            LeaseLost: the job belongs to somebody else.
        """
        try:
            async with self.store.begin() as tx:
                return await self._write(tx, claim, step)
        except Instead as turn:
            return await self.apply(claim, turn.step)

    async def _write(self, tx: Tx, claim: Claim[Job], step: Step) -> Claim[Job]:
        notes = list(step.notes)
        # The last plain line is the one that tells of the move.
        telling = notes.pop() if step.move is not None and notes and notes[-1].plain else None
        for note in notes:
            await _tell(tx, claim.item.id, note)
        spoken = {} if telling is None else {"message": telling.message, "level": telling.level}
        if not await tx.jobs.apply(claim, move=step.move, **spoken, **step.changes):
            raise LeaseLost
        job = await tx.jobs.any_get(claim.item.id)
        if job is None:
            raise LeaseLost
        if step.move in _ENDS and Want.CANCEL is job.want is not claim.item.want:
            raise Instead(Step())  # a cancel that was accepted is kept: the job ends by it
        for write in step.writes:
            await write(tx)
        return Claim(job, claim.token, claim.until)


_ENDS = frozenset({Phase.DONE, Phase.FAILED})
_RESUMED = (Note(message="The job is resumed."),)
_PAUSED = (Note(message="The job is paused."),)


async def _tell(tx: Tx, job_id: str, note: Note) -> None:
    await tx.job_events.add(
        job_id,
        level=note.level,
        message=note.message,
        type=note.type,
        data=note.data,
        at=note.at,
        dedupe=note.dedupe,
    )
