"""One look at an attempt, and what its trainer is told."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from graftwork.billing import MACHINE
from graftwork.compute.port import Deadlines, MachineInfo, Unknown
from graftwork.control.plan import options_of
from graftwork.control.reconcilers.jobs.context import Context
from graftwork.control.reconcilers.jobs.machines import pool_of, tokens_here
from graftwork.core.errors import MachineError
from graftwork.core.money import parse_dollars
from graftwork.core.nouns import Job, Machine, Run
from graftwork.core.states import EntryState, MachineState, Observed, Want
from graftwork.runs.documents import Control, Heartbeat, Result
from graftwork.runs.folder import write_control

_ENDED = frozenset({Observed.EXITED, Observed.ERROR, Observed.GONE})
SHARES = 16
"""A run's part of its machine's price is told to the trainer in sixteenths, rounded up."""


@dataclass(frozen=True, slots=True)
class Sight:
    """What one look at an attempt saw."""

    run: Run
    machine: Machine
    info: MachineInfo | None
    """None when the provider did not answer, which says nothing about the machine."""
    result: Result | None
    beat: Heartbeat | None

    @property
    def ended(self) -> bool:
        """Whether the machine has ended, for everybody on it."""
        return self.info is not None and self.info.state in _ENDED

    @property
    def over(self) -> bool:
        """Whether nothing more will come from this attempt."""
        return self.result is not None or self.ended

    @property
    def late(self) -> bool:
        """Whether the run came aboard a machine that was made for another."""
        return (self.run.job_id, self.run.fence) != (self.machine.job_id, self.machine.fence)

    @property
    def life(self) -> float:
        """When the trainer last showed life, or could first have."""
        began = max(self.machine.launched_at or self.machine.created_at, self.run.created_at)
        return self.beat.at if self.beat is not None else began


async def look(ctx: Context, job: Job) -> Sight:
    """Look at the newest attempt of a job."""
    async with ctx.store.read() as tx:
        run = await tx.runs.latest(job.id)
        machine = None if run is None else await tx.machines.get(run.machine)
    if run is None or machine is None or run.fence != job.fence:
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
    return Sight(run, machine, info, result, await asyncio.to_thread(reader.heartbeat, job.fence))


async def tell(ctx: Context, job: Job, sight: Sight) -> None:
    """Renew the trainer's lease and the machine's deadline at half of either; pass on what is wanted.

    A trainer that shows no life is not renewed: its provider ends it at the deadline, and it counts as lost.
    """
    now, limits, machine = ctx.clock.now(), ctx.limits, sight.machine
    held = await asyncio.to_thread(ctx.reader(job).control)
    deadline = machine.deadline
    if deadline - now < limits.deadline / 2 and now - sight.life < limits.stall:
        deadline = now + limits.deadline
        await _extend(ctx, machine, deadline)
    lease_until = held.lease_until if held is not None else 0.0
    if lease_until - now < limits.lease / 2:
        lease_until = now + limits.lease
    cap = await _cap(ctx, job, sight.run)
    wanted = Control(
        want=Want.PAUSE if sight.run.bumped and job.want is Want.RUN else job.want,
        fence=job.fence,
        lease_until=lease_until,
        deadline=deadline,
        max_cost=cap,
        price_per_hour=(machine.price_per_hour if cap is None else await _price(ctx, machine, job)) or None,
        billed_since=machine.launched_at,
    )
    if wanted != held:
        await asyncio.to_thread(write_control, ctx.folder(job), wanted)


async def _cap(ctx: Context, job: Job, run: Run) -> int | None:
    """What the machine of this attempt may cost: the job's cap less what its earlier machines came to.

    A machine that still runs for others is counted with what was reserved for it.
    """
    cap = options_of(job).max_cost
    if cap is None:
        return None
    if job.fence == 1:
        return parse_dollars(cap)
    async with ctx.store.read() as tx:
        entries = await tx.ledger.for_job(job.project_id, job.id)
    spent = [entry for entry in entries if entry.kind == MACHINE and entry.state is not EntryState.VOID]
    before = [e for e in spent if e.refs.get("machine") != run.machine or e.state is EntryState.SETTLED]
    return max(0, parse_dollars(cap) - sum(entry.amount for entry in before))


async def _price(ctx: Context, machine: Machine, job: Job) -> int:
    """Micro-dollars an hour that this run bears, were the machine to end now: by tokens trained there."""
    async with ctx.store.read() as tx:
        runs = await tx.runs.on(machine.name)
    if len(runs) < 2:
        return machine.price_per_hour
    tokens = {(run.job_id, run.fence): await asyncio.to_thread(tokens_here, run) for run in runs}
    total, mine = sum(tokens.values()), tokens.get((job.id, job.fence), 0)
    parts = -(-mine * SHARES // total) if total else -(-SHARES // len(runs))
    return -(-machine.price_per_hour * max(parts, 1) // SHARES)


async def _extend(ctx: Context, machine: Machine, deadline: float) -> None:
    provider = pool_of(ctx.pools, machine).provider
    if isinstance(provider, Deadlines):
        await provider.set_deadline(machine.name, deadline)
    async with ctx.store.begin() as tx:
        await tx.machines.set_deadline(machine.name, deadline)
