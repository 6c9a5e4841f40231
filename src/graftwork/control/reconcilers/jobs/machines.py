"""Giving machines back: asked for, confirmed by the provider, paid, and only then written down as gone."""

from __future__ import annotations

from collections.abc import Mapping

from graftwork.billing import settle_machine
from graftwork.compute.port import MachineInfo, Unknown
from graftwork.control.reconcilers.jobs.context import Context, Pool
from graftwork.core.clock import Clock
from graftwork.core.errors import MachineError
from graftwork.core.nouns import Job, Machine
from graftwork.core.states import MachineState, Observed
from graftwork.store import Store


async def machine_of(ctx: Context, job: Job) -> Machine | None:
    """The machine of the job's newest attempt."""
    async with ctx.store.read() as tx:
        run = await tx.runs.latest(job.id)
        return None if run is None else await tx.machines.get(run.machine)


async def close(store: Store, clock: Clock, pools: Mapping[str, Pool], machine: Machine) -> bool:
    """End a machine; True once the provider says that it is gone, and its seconds are in the ledger.

    Repeatable at any point: of several who close one machine, one writes.
    """
    if machine.state is MachineState.GONE:
        return True
    provider = pool_of(pools, machine).provider
    try:
        before = after = await provider.describe(machine.name)
        if before.state is not Observed.GONE:
            await provider.terminate(machine.name)
            after = await provider.describe(machine.name)
    except Unknown:
        return False
    if after.state is not Observed.GONE:
        return False
    now = clock.now()
    async with store.begin() as tx:
        await settle_machine(
            tx,
            name=machine.name,
            price_per_hour=machine.price_per_hour,
            seconds=_seconds(machine, before, after, now),
            at=now,
        )
        await tx.machines.set_state(machine.name, MachineState.GONE, at=now)
    return True


def pool_of(pools: Mapping[str, Pool], machine: Machine) -> Pool:
    """The pool a machine came from.

    Raises:
        MachineError: its provider is not configured any more.
    """
    pool = pools.get(machine.provider)
    if pool is None:
        raise MachineError(
            f"Machine {machine.name} is at {machine.provider!r}, which is not configured any more.",
            fix="Configure the provider again until its machines are gone.",
            code="provider_missing",
        )
    return pool


def _seconds(machine: Machine, before: MachineInfo, after: MachineInfo, now: float) -> float:
    """How long it ran, by the provider's word where it has one.

    Of a machine that was gone before we looked, and whose end nobody tells, at most the time to its deadline
    counts: it did not live longer, however long we were away.
    """
    started = after.started_at or before.started_at or machine.launched_at
    seen = min(now, machine.deadline) if before.state is Observed.GONE else now
    ended = after.ended_at or before.ended_at or seen
    return 0.0 if started is None else max(0.0, ended - started)
