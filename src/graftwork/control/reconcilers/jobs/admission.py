"""Queued: in one transaction money is reserved and a machine wanted, before anything is bought (law 3)."""

from __future__ import annotations

from collections.abc import Sequence

from graftwork.billing import TRAINING, reserve_machine, reserve_training, shared_key
from graftwork.compute.offers import fits
from graftwork.compute.port import Need, Offer, Unknown
from graftwork.control.fairness import WINDOW, Waiting, turns
from graftwork.control.plan import plan_of
from graftwork.control.reconcilers.jobs.company import Seat, alone, could_join, make_room, seat
from graftwork.control.reconcilers.jobs.context import Context, Pool
from graftwork.control.reconcilers.jobs.endings import failed
from graftwork.control.reconcilers.jobs.step import Instead, Note, Step
from graftwork.core import ids
from graftwork.core.errors import BudgetExceeded, PlatformError, UserError
from graftwork.core.nouns import Job, Machine, Run
from graftwork.core.states import MachineState, Phase
from graftwork.models.company import NO_LOSS, PAYS
from graftwork.store import Tx


async def queued(ctx: Context, job: Job) -> Step:
    """Reserve the budget and come aboard a machine, or want one; or wait for either.

    A machine that trains the same base model already is taken where company pays; where no other is free,
    also where it only loses nothing. Those who wait take turns (``control.fairness``).
    """
    offers = await cheapest(ctx, need_of(job))
    async with ctx.store.read() as tx:
        free = [offer for offer in offers if await _has_room(ctx, tx, offer)]
    found = await seat(ctx, job, PAYS if free else NO_LOSS)
    if found is None and not free:
        await _ask_for_room(ctx, job)
        return waiting(ctx, job, "Waiting for a free machine.")
    if not await _its_turn(ctx, job, found, free):
        return waiting(ctx, job, "Waiting for its turn: others come first.")
    return _intent(ctx, job, free[0]) if found is None else _join(ctx, job, found)


async def _its_turn(ctx: Context, job: Job, found: Seat | None, free: Sequence[Offer]) -> bool:
    """Whether nobody who could have the same, and looks for it now, comes first."""
    now = ctx.clock.now()
    async with ctx.store.read() as tx:
        queue = [other for other in await tx.queue.waiting() if other.next_at <= now + 2 * ctx.limits.waiting]
        given = await tx.queue.given(TRAINING, now - WINDOW)
    later = [] if found is None or free else await _offers(ctx.pools[found.machine.provider], Need())
    line: list[Waiting] = []
    for other in queue:
        if other.id == job.id or await _rival(ctx, other, found, free, later):
            quote = plan_of(other).quote
            line.append(Waiting(other.id, other.project_id, quote.tokens if quote else 0, other.created_at))
    order = turns(line, given)
    return not order or order[0].key == job.id or all(one.key != job.id for one in order)


async def _rival(
    ctx: Context, other: Job, found: Seat | None, free: Sequence[Offer], later: Sequence[Offer]
) -> bool:
    """Whether a waiting job could have what somebody is about to take: a free machine, or a seat.

    Who cannot come aboard of a machine that is not free waits for it all the same, and after a while nobody
    comes aboard before them: else a shared machine would never be free again. ``later``: what the provider of
    the seat has to offer once one is.
    """
    if found is None:
        return any(fits(offer, need_of(other)) for offer in free)
    if await could_join(ctx, other, found):
        return True
    need = need_of(other)
    return any(fits(offer, need) for offer in later) and await _waited(ctx, other) >= ctx.limits.patience


async def _waited(ctx: Context, job: Job) -> float:
    """Seconds that a job has been in the queue, this time."""
    async with ctx.store.read() as tx:
        run = await tx.runs.latest(job.id)
    since = job.created_at if run is None else max(run.off_at or 0.0, run.ended_at or 0.0, run.created_at)
    return ctx.clock.now() - since


async def _ask_for_room(ctx: Context, job: Job) -> None:
    """After waiting long enough, have a run of a project that was given more make room."""
    if await _waited(ctx, job) < ctx.limits.patience:
        return
    async with ctx.store.read() as tx:
        given = await tx.queue.given(TRAINING, ctx.clock.now() - WINDOW)
    await make_room(ctx, job, given)


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
        offers += await _offers(pool, need)
    return sorted(offers, key=lambda offer: (offer.price_per_hour, offer.provider, offer.id))


async def _offers(pool: Pool, need: Need) -> list[Offer]:
    try:
        return await pool.provider.offers(need)
    except (Unknown, UserError):
        return []


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
        shared=alone(ctx, job) is None,
        memory=offer.gpu_memory if offer.gpus else offer.memory,
        cores=offer.cores,
        gpus=offer.gpus,
        gpu=offer.gpu,
    )
    run = Run(job_id=job.id, fence=fence, uri=ctx.uri(job), machine=name, created_at=now)

    async def write(tx: Tx) -> None:
        if not await _has_room(ctx, tx, offer):
            raise Instead(waiting(ctx, job, "Waiting for a free machine."))
        try:
            await _reserve(tx, job, machine, now)
        except BudgetExceeded as error:
            raise Instead(failed(ctx, job, error.code, error.text)) from error
        await tx.runs.create(run)
        await tx.machines.create(machine)

    return Step(move=Phase.PROVISIONING, changes={"fence": fence}, writes=(write,))


def _join(ctx: Context, job: Job, found: Seat) -> Step:
    """Come aboard: reserved and written down first, listed afterwards."""
    fence, now, name = job.fence + 1, ctx.clock.now(), found.machine.name
    run = Run(job_id=job.id, fence=fence, uri=ctx.uri(job), machine=name, created_at=now)
    others = len(found.aboard)

    async def write(tx: Tx) -> None:
        machine = await tx.machines.lock(name)
        there = tuple((other.job_id, other.fence) for other in await tx.runs.aboard(name))
        shut = machine is None or machine.state is MachineState.GONE or machine.closed_at is not None
        if machine is None or shut or set(there) != set(found.aboard):
            raise Instead(Step(delay=ctx.limits.waiting / 4))  # it is no longer what was looked at
        try:
            await _reserve(tx, job, machine, now, shared_key(name, job.id, fence))
        except BudgetExceeded as error:
            raise Instead(failed(ctx, job, error.code, error.text)) from error
        await tx.runs.create(run)

    message = (
        f"Joins a machine that trains {'another run' if others == 1 else f'{others} other runs'} of the same "
        f"base model: {found.verdict.why}."
    )
    note = Note(message=message, data={"code": "joined", "others": others, "gain": found.verdict.gain})
    return Step(move=Phase.PROVISIONING, changes={"fence": fence}, notes=(note,), writes=(write,))


async def _reserve(tx: Tx, job: Job, machine: Machine, at: float, key: str | None = None) -> None:
    plan = plan_of(job)
    if plan.quote is None:
        raise PlatformError(f"Job {job.id} has no quote.", code="quote_missing")
    await reserve_training(
        tx,
        project_id=job.project_id,
        job_id=job.id,
        base=job.base,
        quoted=plan.quote,
        at=at,
    )
    await reserve_machine(
        tx,
        project_id=job.project_id,
        name=machine.name,
        job_id=job.id,
        provider=machine.provider,
        price_per_hour=machine.price_per_hour,
        seconds=plan.seconds,
        at=at,
        key=key,
    )
