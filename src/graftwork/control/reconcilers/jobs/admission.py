"""Queued: in one transaction money is reserved and a machine wanted, before anything is bought (law 3)."""

from __future__ import annotations

from graftwork.billing import reserve_machine, reserve_training
from graftwork.compute.port import Need, Offer, Unknown
from graftwork.control.plan import plan_of
from graftwork.control.reconcilers.jobs.context import Context
from graftwork.control.reconcilers.jobs.endings import failed
from graftwork.control.reconcilers.jobs.step import Instead, Note, Step
from graftwork.core import ids
from graftwork.core.errors import BudgetExceeded, PlatformError, UserError
from graftwork.core.nouns import Job, Machine, Run
from graftwork.core.states import MachineState, Phase
from graftwork.store import Tx


async def queued(ctx: Context, job: Job) -> Step:
    """Reserve the budget, choose the cheapest offer and write the intent; or wait for a free machine."""
    offers = await cheapest(ctx, need_of(job))
    async with ctx.store.read() as tx:
        free = [offer for offer in offers if await _has_room(ctx, tx, offer)]
    return _intent(ctx, job, free[0]) if free else waiting(ctx, job, "Waiting for a free machine.")


def need_of(job: Job) -> Need:
    """What the job's plan asks of a machine."""
    plan = plan_of(job)
    if plan.on_gpu:
        return Need(gpus=1, gpu_memory=plan.memory)
    return Need(memory=plan.memory)


def waiting(ctx: Context, job: Job, why: str) -> Step:
    """Stay (or go back) in the queue; said once for each attempt."""
    note = Note(message=why, data={"code": "waiting_for_machine"}, dedupe=f"waiting:{job.fence}")
    return Step(notes=(note,), delay=ctx.limits.waiting)


async def cheapest(ctx: Context, need: Need) -> list[Offer]:
    """Live offers that fit, cheapest first; a provider that does not answer offers nothing."""
    offers: list[Offer] = []
    for pool in ctx.pools.values():
        try:
            offers += await pool.provider.offers(need)
        except (Unknown, UserError):
            continue
    return sorted(offers, key=lambda offer: (offer.price_per_hour, offer.provider, offer.id))


async def _has_room(ctx: Context, tx: Tx, offer: Offer) -> bool:
    limit = ctx.pools[offer.provider].limit
    if limit is None:
        return True
    return sum(machine.provider == offer.provider for machine in await tx.machines.live()) < limit


def _intent(ctx: Context, job: Job, offer: Offer) -> Step:
    fence, now = job.fence + 1, ctx.clock.now()
    name = ids.machine_name(ctx.install, job.id, fence)
    machine = Machine(
        name=name,
        job_id=job.id,
        fence=fence,
        provider=offer.provider,
        state=MachineState.INTENDED,
        price_per_hour=offer.price_per_hour,
        deadline=now + ctx.limits.deadline,
        created_at=now,
    )
    run = Run(job_id=job.id, fence=fence, uri=ctx.uri(job), machine=name, created_at=now)

    async def write(tx: Tx) -> None:
        if not await _has_room(ctx, tx, offer):
            raise Instead(waiting(ctx, job, "Waiting for a free machine."))
        try:
            await _reserve(tx, job, machine)
        except BudgetExceeded as error:
            raise Instead(failed(ctx, job, error.code, error.text)) from error
        await tx.runs.create(run)
        await tx.machines.create(machine)

    return Step(move=Phase.PROVISIONING, changes={"fence": fence}, writes=(write,))


async def _reserve(tx: Tx, job: Job, machine: Machine) -> None:
    plan = plan_of(job)
    if plan.quote is None:
        raise PlatformError(f"Job {job.id} has no quote.", code="quote_missing")
    await reserve_training(
        tx,
        project_id=job.project_id,
        job_id=job.id,
        base=job.base,
        quoted=plan.quote,
        at=machine.created_at,
    )
    await reserve_machine(
        tx,
        project_id=job.project_id,
        name=machine.name,
        job_id=job.id,
        provider=machine.provider,
        price_per_hour=machine.price_per_hour,
        seconds=plan.seconds,
        at=machine.created_at,
    )
