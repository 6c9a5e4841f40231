"""Provisioning: the run folder is prepared, and the machine of the intent is made, or found."""

from __future__ import annotations

import asyncio

from graftwork.compute.adoption import launch_once
from graftwork.compute.offers import fits
from graftwork.compute.port import BadRequest, Credential, LaunchSpec, Money, NoCapacity, Offer, Unknown
from graftwork.control.plan import plan_of
from graftwork.control.reconcilers.jobs.admission import need_of, waiting
from graftwork.control.reconcilers.jobs.company import assign, list_uri
from graftwork.control.reconcilers.jobs.context import Context
from graftwork.control.reconcilers.jobs.endings import interrupted, lost
from graftwork.control.reconcilers.jobs.machines import close, machine_of, pool_of
from graftwork.control.reconcilers.jobs.step import Note, Step, Write
from graftwork.core.errors import MachineError
from graftwork.core.nouns import Job, Machine
from graftwork.core.states import MachineState, Phase, Want
from graftwork.runs.documents import Control
from graftwork.runs.folder import prepare, write_control
from graftwork.store import Tx


async def provisioning(ctx: Context, job: Job) -> Step:
    """Make the machine that was wanted; safe to repeat after a crash at any point."""
    machine = await machine_of(ctx, job)
    async with ctx.store.read() as tx:
        run = await tx.runs.latest(job.id)
    if machine is None or run is None or run.fence != job.fence:
        raise MachineError(f"Job {job.id} is provisioning without an intent.", code="intent_missing")
    if (machine.job_id, machine.fence) != (job.id, job.fence):
        return await _come_aboard(ctx, job, machine)
    if machine.state is MachineState.GONE:
        return await lost(ctx, job, "its machine was gone before it started")
    await _prepare(ctx, job, machine)
    provider = pool_of(ctx.pools, machine).provider
    if machine.shared:
        await assign(ctx, machine, job)
    told = ["--assignments", list_uri(ctx, machine.name)]
    alone = ["--run", f"{ctx.uri(job)}#{job.fence}"]
    spec = LaunchSpec(
        command=[*ctx.trainer, *(told if machine.shared else alone)],
        run_uri=ctx.uri(job),
        env=dict(ctx.environment),
        deadline=ctx.clock.now() + ctx.limits.deadline,
    )
    try:
        offer = await _offer(ctx, job, machine)
        info = await launch_once(provider, machine.name, spec, offer)
    except NoCapacity as error:
        return await _no_machine(ctx, job, machine, f"No machine was free ({error.message})")
    except (Credential, Money) as error:
        return await _no_machine(ctx, job, machine, error.text)
    except BadRequest as error:
        if not await close(ctx.store, ctx.clock, ctx.pools, machine):
            return Step(delay=ctx.limits.waiting)
        return await lost(ctx, job, error.text)
    except Unknown as error:
        return _unclear(ctx, job, error.message)
    started = info.started_at or ctx.clock.now()

    async def write(tx: Tx) -> None:
        await tx.machines.set_state(machine.name, MachineState.LAUNCHED, at=started)

    return _started(ctx, job, write)


async def _come_aboard(ctx: Context, job: Job, machine: Machine) -> Step:
    """Have the trainer of a machine that was launched for another run take this one in, by listing it."""
    if machine.state is MachineState.GONE:
        return interrupted(ctx, job, "the machine it was to join is gone")
    if machine.state is not MachineState.LAUNCHED:
        return Step(delay=ctx.limits.watch)
    await _prepare(ctx, job, machine)
    await assign(ctx, machine, job)
    return _started(ctx, job)


def _started(ctx: Context, job: Job, *writes: Write) -> Step:
    return Step(
        move=Phase.PREPARING,
        changes={"started_at": job.started_at or ctx.clock.now()},
        notes=(Note(message="Fine-tuning job started", dedupe="started"),),
        writes=writes,
    )


async def _prepare(ctx: Context, job: Job, machine: Machine) -> None:
    plan = plan_of(job)
    if plan.spec is None or plan.train is None:
        raise MachineError(f"Job {job.id} has no plan.", code="plan_missing")
    train = await ctx.artifacts.get(plan.train.sha256)
    valid = None if plan.valid is None else await ctx.artifacts.get(plan.valid.sha256)
    now = ctx.clock.now()
    control = Control(
        want=Want.RUN,
        fence=job.fence,
        lease_until=now + ctx.limits.lease,
        deadline=now + ctx.limits.deadline,
        price_per_hour=machine.price_per_hour or None,
    )
    named = {} if plan.spec.start is None else plan.spec.start.files
    start = {name: await ctx.artifacts.get(sha256) for name, sha256 in named.items()}
    await asyncio.to_thread(prepare, ctx.folder(job), plan.spec, train, valid, start)
    await asyncio.to_thread(write_control, ctx.folder(job), control)


async def _offer(ctx: Context, job: Job, machine: Machine) -> Offer:
    """A fresh offer that costs no more than what was reserved for."""
    need = need_of(job)
    offers = await pool_of(ctx.pools, machine).provider.offers(need)
    for offer in offers:
        if offer.price_per_hour <= machine.price_per_hour and fits(offer, need):
            return offer
    raise NoCapacity("The price has risen since it was quoted.", fix="The job is quoted again.")


async def _no_machine(ctx: Context, job: Job, machine: Machine, why: str) -> Step:
    """The provider says that it made none: the intent is closed, and the job queues for another."""
    if not await close(ctx.store, ctx.clock, ctx.pools, machine):
        return Step(delay=ctx.limits.waiting)
    queue = waiting(ctx, job, f"Waiting for a machine: {why}")
    return Step(move=Phase.QUEUED, notes=queue.notes, delay=5 * ctx.limits.waiting)


def _unclear(ctx: Context, job: Job, why: str) -> Step:
    """It may have made one: never asked for again before a look-up by name (``launch_once`` does both)."""
    note = Note(
        message=f"The provider's answer was unclear ({why}); looking for the machine.",
        level="warn",
        dedupe=f"unclear:{job.fence}",
    )
    return Step(notes=(note,), delay=ctx.limits.waiting)
