"""Jobs that share a machine: who may come aboard, the list its trainer reads, and leaving without a stir.

Who is aboard is a matter of rows: the runs that name the machine and have not left it. The assignment list is
made from them, by whichever job of the machine looks next, so a list that was written late or never is mended
within a second. A run is asked to stop by its own ``control.json`` alone.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from graftwork.control.plan import plan_of
from graftwork.control.reconcilers.jobs.context import Context
from graftwork.control.reconcilers.jobs.machines import close, machine_of
from graftwork.core.errors import GraftworkError
from graftwork.core.nouns import Job, Machine
from graftwork.core.states import MachineState
from graftwork.models.company import (
    NO_LOSS,
    Host,
    Member,
    Verdict,
    kind_of,
    may_join,
    tokens_per_pass,
    why_alone,
)
from graftwork.models.memory import Device, Load
from graftwork.models.steptime import Hardware
from graftwork.runs.assignments import read_assignments, write_assignments
from graftwork.runs.documents import Assignment, Assignments


@dataclass(frozen=True, slots=True)
class Seat:
    """A place on a machine that trains already."""

    machine: Machine
    aboard: tuple[tuple[str, int], ...]
    """Jobs and fences that were there when it was found."""
    there: tuple[Member, ...]
    verdict: Verdict


def alone(ctx: Context, job: Job) -> str | None:
    """Why a job can have no company now; None if it can."""
    if ctx.limits.company < 2:
        return "company is switched off"
    if job.losses:
        return "an attempt of it was lost: until it makes progress, nobody else is put at risk"
    spec = plan_of(job).spec
    return "it has no plan" if spec is None else why_alone(spec)


def host_of(machine: Machine) -> Host:
    """A machine as the planner sees it."""
    device: Device = "gpu" if machine.gpus else "cpu"
    return Host(Hardware(device=device, cores=machine.cores, gpu=machine.gpu), machine.memory)


async def member_of(ctx: Context, job: Job) -> Member | None:
    """A job as its company sees it; None for one that was never planned."""
    plan = plan_of(job)
    if plan.spec is None or plan.estimate is None:
        return None
    entry = await ctx.bases.get(job.base)
    schedule, parts = plan.spec.schedule, plan.estimate["memory"]
    resident, adapter = parts["weights"] + parts["runtime"], parts["adapter"]
    steps = max(1, schedule.total_steps * schedule.accumulation)
    tokens = max(1, plan.estimate["trained_tokens"] // steps)
    return Member(
        key=job.id,
        kind=kind_of(plan.spec),
        shape=entry.shape,
        load=Load(lora=plan.spec.lora, tokens=tokens, labelled=tokens // 2, method=plan.spec.method),
        quantization=plan.spec.quantization,
        adapter=adapter,
        working=sum(parts.values()) - resident - adapter,
        resident=resident,
        widest=-(-schedule.batch_size // schedule.accumulation) * schedule.max_length,
    )


async def _members(ctx: Context, crew: Sequence[Job]) -> list[Member]:
    return [member for job in crew if (member := await member_of(ctx, job)) is not None]


async def seat(ctx: Context, job: Job, pays: float) -> Seat | None:
    """The machine of the greatest gain that the job may come aboard of; None when there is none."""
    me = await member_of(ctx, job)
    if me is None or alone(ctx, job) is not None:
        return None
    async with ctx.store.read() as tx:
        crews = [(machine, await tx.runs.crew(machine.name)) for machine in await tx.machines.open()]
    seats: list[Seat] = []
    for machine, crew in crews:
        there = await _members(ctx, crew)
        if not there or len(there) < len(crew) or any(alone(ctx, other) for other in crew):
            continue
        if plan_of(job).on_gpu != (machine.gpus > 0) or machine.deadline <= ctx.clock.now():
            continue
        verdict = may_join(me, there, host_of(machine), pays=pays, limit=ctx.limits.company)
        if verdict.ok:
            known = tuple((other.id, other.fence) for other in crew)
            seats.append(Seat(machine, known, tuple(there), verdict))
    return max(seats, key=lambda found: found.verdict.gain, default=None)


async def could_join(ctx: Context, job: Job, found: Seat) -> bool:
    """Whether another job could come aboard in place of the one that found the seat."""
    me = await member_of(ctx, job)
    if me is None or alone(ctx, job) is not None or plan_of(job).on_gpu != (found.machine.gpus > 0):
        return False
    host = host_of(found.machine)
    return may_join(me, found.there, host, pays=NO_LOSS, limit=ctx.limits.company).ok


async def make_room(ctx: Context, job: Job, given: Mapping[str, int]) -> bool:
    """Ask a run off a full machine, for a job whose project was given much less; True if one was asked.

    Of the project that was given most, the run that came aboard last. It saves, waits for its turn like
    everybody else, and goes on from there. Only a project that would still have been given more after the
    job's own tokens makes room, so that nobody is sent to and fro; one run of a machine at a time.
    """
    me, plan = await member_of(ctx, job), plan_of(job)
    if me is None or alone(ctx, job) is not None or plan.quote is None:
        return False
    bound = given.get(job.project_id, 0) + plan.quote.tokens
    async with ctx.store.read() as tx:
        crews = [
            (machine, await tx.runs.aboard(machine.name), await tx.runs.crew(machine.name))
            for machine in await tx.machines.open()
        ]
    for machine, runs, crew in crews:
        members = await _members(ctx, crew)
        if any(run.bumped for run in runs) or any(member.kind != me.kind for member in members):
            continue
        for other in sorted(reversed(crew), key=lambda one: -given.get(one.project_id, 0)):
            rest = [member for member in members if member.key != other.id]
            enough = rest and may_join(me, rest, host_of(machine), pays=NO_LOSS, limit=ctx.limits.company).ok
            if enough and other.project_id != job.project_id and given.get(other.project_id, 0) > bound:
                async with ctx.store.begin() as tx:
                    return await tx.runs.bump(
                        other.id, other.fence, "it makes room for another project's run"
                    )
    return False


def list_uri(ctx: Context, machine: str) -> str:
    """Where the assignment list of a machine lies."""
    return (ctx.runs / "assignments" / f"{machine}.json").absolute().as_uri()


async def assign(ctx: Context, machine: Machine, joining: Job | None = None) -> int:
    """Make the machine's assignment list true, if it is not; how many runs are on it.

    A trainer passes over a folder that is not there yet, for good: a run is listed once its own job has
    prepared it, which ``joining`` says of itself.
    """
    async with ctx.store.read() as tx:
        now = await tx.machines.get(machine.name)
        runs = await tx.runs.prepared(machine.name, joining and joining.id)
    if now is None:
        return 0
    uri, listed = list_uri(ctx, machine.name), tuple(Assignment(uri=r.uri, fence=r.fence) for r in runs)
    try:
        held = await asyncio.to_thread(read_assignments, uri)
    except GraftworkError:
        held = None
    same = held is not None and (held.runs, held.closed) == (listed, now.closed_at is not None)
    if not same or held is None or held.deadline != now.deadline:
        async with ctx.store.read() as tx:
            crew = await tx.runs.crew(machine.name)
        there = await _members(ctx, crew)
        wanted = Assignments(
            runs=listed,
            closed=now.closed_at is not None,
            idle_s=ctx.limits.idle,
            deadline=now.deadline,
            tokens_per_pass=tokens_per_pass(there, host_of(now)) if there else None,
            park=now.gpus > 0 and len(there) > 1,
        )
        await asyncio.to_thread(write_assignments, uri, wanted)
    return len(runs)


async def others_aboard(ctx: Context, job: Job) -> bool:
    """Whether other runs are on the machine of the job's newest attempt."""
    async with ctx.store.read() as tx:
        run = await tx.runs.latest(job.id)
        there = [] if run is None else await tx.runs.aboard(run.machine)
    return any(other.job_id != job.id for other in there)


async def leave(ctx: Context, job: Job, *, over: bool = False) -> bool:
    """Take the job off its machine; True once nothing of it is left there.

    The last one closes the machine, and waits until the provider says that it is gone; from the moment that
    is decided nobody comes aboard any more. ``over``: the machine has ended, for everybody.
    """
    async with ctx.store.read() as tx:
        run = await tx.runs.latest(job.id)
    machine = await machine_of(ctx, job)
    if run is None or machine is None or machine.state is MachineState.GONE:
        return True
    # One that was never launched trains nobody: those who came aboard meanwhile look for another.
    if machine.shared and not over and machine.state is not MachineState.INTENDED:
        now = ctx.clock.now()
        async with ctx.store.begin() as tx:
            await tx.machines.lock(machine.name)
            await tx.runs.leave(job.id, run.fence, now)
            rest = await tx.runs.aboard(machine.name)
            if not rest:
                await tx.machines.shut(machine.name, now)
        if rest:
            return True
    return await close(ctx.store, ctx.clock, ctx.pools, machine)
