"""Giving machines back: asked for, confirmed by the provider, paid, and only then written down as gone."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from graftwork.billing import machine_key, settle_machine, shared_key
from graftwork.compute.port import MachineInfo, Unknown
from graftwork.control.reconcilers.jobs.context import Context, Pool
from graftwork.core.clock import Clock
from graftwork.core.errors import GraftworkError, MachineError
from graftwork.core.nouns import Job, Machine, Run
from graftwork.core.states import MachineState, Observed
from graftwork.runs.reader import RunReader
from graftwork.runs.transport import open_transport
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
    if machine.shared:
        async with store.begin() as tx:
            await tx.machines.lock(machine.name)
            await tx.machines.shut(machine.name, clock.now())
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
    now, parts = clock.now(), await _parts(store, machine)
    async with store.begin() as tx:
        await settle_machine(
            tx,
            name=machine.name,
            price_per_hour=machine.price_per_hour,
            seconds=_seconds(machine, before, after, now),
            at=now,
            parts=parts,
        )
        await tx.machines.set_state(machine.name, MachineState.GONE, at=now)
    return True


async def _parts(store: Store, machine: Machine) -> dict[str, int] | None:
    """Tokens trained there by ledger key; None for a machine that only ever had the run it was made for."""
    async with store.read() as tx:
        runs = await tx.runs.on(machine.name)
    if len(runs) < 2:
        return None
    return {key_of(machine, run): await asyncio.to_thread(tokens_here, run) for run in runs}


def key_of(machine: Machine, run: Run) -> str:
    """The ledger key of a run's part of a machine."""
    first = (run.job_id, run.fence) == (machine.job_id, machine.fence)
    return machine_key(machine.name) if first else shared_key(machine.name, run.job_id, run.fence)


def tokens_here(run: Run) -> int:
    """Tokens that an attempt trained, by its own word: those of the curve before it are not its own.

    Blocks on the run folder. A folder that cannot be read trained nothing.
    """
    try:
        reader = RunReader(open_transport(run.uri))
        result, beat = reader.result(run.fence), reader.heartbeat(run.fence)
        before = max((saved.tokens for _, saved in reader.checkpoints(run.fence - 1)), default=0)
    except (GraftworkError, OSError):
        return 0
    return max(0, max(result.tokens if result else 0, beat.tokens if beat else 0) - before)


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
