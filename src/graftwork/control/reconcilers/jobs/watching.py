"""Preparing and training: what the trainer wrote is taken in, it is told what is wanted, and judged."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from graftwork.billing import MACHINE
from graftwork.compute.port import Deadlines, MachineInfo, Unknown
from graftwork.control.plan import options_of
from graftwork.control.reconcilers.jobs.collecting import succeeded
from graftwork.control.reconcilers.jobs.context import Context
from graftwork.control.reconcilers.jobs.endings import failed, interrupted, lost, paused
from graftwork.control.reconcilers.jobs.intake import take_in
from graftwork.control.reconcilers.jobs.machines import close, machine_of, pool_of
from graftwork.control.reconcilers.jobs.step import Step
from graftwork.core.errors import MachineError
from graftwork.core.money import parse_dollars
from graftwork.core.nouns import Job, Machine
from graftwork.core.states import EntryState, MachineState, Observed, Outcome, Phase, Want
from graftwork.runs.documents import Control, Heartbeat, Result
from graftwork.runs.folder import write_control

_ENDED = frozenset({Observed.EXITED, Observed.ERROR, Observed.GONE})
_OURS = frozenset({"lease_lapsed", "signal", "pause"})
"""Why a trainer paused though it should run, where nobody is to blame: we were away, or changed our mind."""


@dataclass(frozen=True, slots=True)
class _Sight:
    """What one look at an attempt saw."""

    machine: Machine
    info: MachineInfo | None
    """None when the provider did not answer, which says nothing about the machine."""
    result: Result | None
    beat: Heartbeat | None

    @property
    def over(self) -> bool:
        """Whether nothing more will come from this attempt."""
        return self.result is not None or (self.info is not None and self.info.state in _ENDED)


async def watch(ctx: Context, job: Job) -> Step:
    """One look at a running attempt."""
    sight = await _look(ctx, job)
    news = await take_in(ctx, job, sight.beat, over=sight.over)
    if not sight.over:
        await _tell(ctx, job, sight)
        return news.step(_forward(job, sight.beat), ctx.limits.watch)
    if not news.empty:
        return news.step(None, 0.0)  # the end is judged with everything known: progress counts
    if not await close(ctx.store, ctx.clock, ctx.pools, sight.machine):
        return Step(delay=ctx.limits.watch / 2)
    return await _judge(ctx, job, sight)


async def _look(ctx: Context, job: Job) -> _Sight:
    machine = await machine_of(ctx, job)
    if machine is None or machine.fence != job.fence:
        raise MachineError(f"Job {job.id} is {job.phase} without an attempt.", code="intent_missing")
    info = None
    if machine.state is MachineState.GONE:
        info = MachineInfo(name=machine.name, state=Observed.GONE)
    else:
        try:
            info = await pool_of(ctx.pools, machine).provider.describe(machine.name)
        except Unknown:
            info = None
    # Read after the look at the machine: what an ended one wrote is all there.
    reader = ctx.reader(job)
    result = await asyncio.to_thread(reader.result, job.fence)
    return _Sight(machine, info, result, await asyncio.to_thread(reader.heartbeat, job.fence))


def _forward(job: Job, beat: Heartbeat | None) -> Phase | None:
    trains = beat is not None and (beat.step > 0 or beat.phase != "loading")
    return Phase.TRAINING if trains and job.phase is Phase.PREPARING else None


async def _tell(ctx: Context, job: Job, sight: _Sight) -> None:
    """Renew the trainer's lease and the machine's deadline at half of either; pass on what is wanted.

    A trainer that shows no life is not renewed: its provider ends it at the deadline, and it counts as lost.
    """
    now, limits, machine = ctx.clock.now(), ctx.limits, sight.machine
    life = sight.beat.at if sight.beat is not None else machine.launched_at or machine.created_at
    held = await asyncio.to_thread(ctx.reader(job).control)
    deadline = machine.deadline
    if deadline - now < limits.deadline / 2 and now - life < limits.stall:
        deadline = now + limits.deadline
        await _extend(ctx, machine, deadline)
    lease_until = held.lease_until if held is not None else 0.0
    if lease_until - now < limits.lease / 2:
        lease_until = now + limits.lease
    wanted = Control(
        want=job.want,
        fence=job.fence,
        lease_until=lease_until,
        deadline=deadline,
        max_cost=await _cap(ctx, job),
        price_per_hour=machine.price_per_hour or None,
        billed_since=machine.launched_at,
    )
    if wanted != held:
        await asyncio.to_thread(write_control, ctx.folder(job), wanted)


async def _cap(ctx: Context, job: Job) -> int | None:
    """What the machine of this attempt may cost: the job's cap less what its earlier machines came to."""
    cap = options_of(job).max_cost
    if cap is None:
        return None
    if job.fence == 1:
        return parse_dollars(cap)
    async with ctx.store.read() as tx:
        entries = await tx.ledger.for_job(job.project_id, job.id)
    before = sum(e.amount for e in entries if e.kind == MACHINE and e.state is EntryState.SETTLED)
    return max(0, parse_dollars(cap) - before)


async def _extend(ctx: Context, machine: Machine, deadline: float) -> None:
    provider = pool_of(ctx.pools, machine).provider
    if isinstance(provider, Deadlines):
        await provider.set_deadline(machine.name, deadline)
    async with ctx.store.begin() as tx:
        await tx.machines.set_deadline(machine.name, deadline)


async def _judge(ctx: Context, job: Job, sight: _Sight) -> Step:
    """The attempt is over and its machine is gone: what becomes of the job."""
    result = sight.result
    if result is None:
        return await lost(ctx, job, _cause(sight.info))
    match result.outcome:
        case Outcome.SUCCEEDED:
            return await succeeded(ctx, job, result)
        case Outcome.FAILED:
            return await _failure(ctx, job, result)
        case Outcome.CANCELLED:
            return interrupted(ctx, job, "it was cancelled from outside")
        case Outcome.PAUSED if job.want is Want.PAUSE:
            return paused(ctx, job)
        case Outcome.PAUSED if result.reason == "max_cost":
            cap = options_of(job).max_cost
            return failed(ctx, job, "max_cost_reached", f"The machine's cost reached max_cost (${cap}).")
        case Outcome.PAUSED if result.reason in _OURS:
            return interrupted(ctx, job, "the server was away" if result.reason != "pause" else "resumed")
        case Outcome.PAUSED:
            return await lost(ctx, job, f"the trainer stopped itself: {result.reason}")


async def _failure(ctx: Context, job: Job, result: Result) -> Step:
    error = result.error
    if error is None:
        return await lost(ctx, job, "the trainer failed without saying why")
    if error.kind == "user":
        return failed(ctx, job, error.code, error.message, param=error.param or "training_file")
    return await lost(ctx, job, error.message)


def _cause(info: MachineInfo | None) -> str:
    if info is None or info.state is Observed.GONE:
        return "its machine is gone"
    code = "" if info.exit_code is None else f" (exit code {info.exit_code})"
    return f"its machine ended without a result{code}: {info.message or info.state}"
