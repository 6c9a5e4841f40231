"""Planning: rows are held out, the schedule is chosen and explained, and the price is quoted."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from graftwork.billing import ModelPrice, Quote, ensure_prices, quote
from graftwork.compute.port import Need, Offer
from graftwork.control.plan import Part, options_of, plan_of
from graftwork.control.reconcilers.jobs.admission import cheapest
from graftwork.control.reconcilers.jobs.context import Context
from graftwork.control.reconcilers.jobs.endings import failed
from graftwork.control.reconcilers.jobs.step import Note, Step
from graftwork.core.errors import BudgetExceeded, PlatformError
from graftwork.core.money import dollars
from graftwork.core.nouns import Job
from graftwork.core.specs import DataRef, Hyperparameters, LoraSpec, RunSpec, Schedule
from graftwork.core.states import Phase
from graftwork.data import Renderer, Row, canonical, measure, read_canonical, split
from graftwork.models import CatalogueEntry, DataSize, Plan, base_ref, choose, plan
from graftwork.runs import layout


@dataclass(frozen=True, slots=True)
class _Parts:
    """The rows to train on and the rows held out, stored and counted."""

    train: Part
    valid: Part | None
    held_out: bool
    size: DataSize


async def planning(ctx: Context, job: Job) -> Step:
    """From what was asked to what will be done: everything automatic is decided, and told."""
    entry = await ctx.bases.pinned(job.base)
    options = options_of(job)
    parts = await _parts(ctx, job, await ctx.bases.renderer(job.base), options.max_length or entry.context)
    asked = Hyperparameters.model_validate(job.asked["hyperparameters"])
    chosen = choose(asked, options, entry, parts.size)
    schedule, offer, estimate = _fitted(await cheapest(ctx, Need()), entry, chosen, options.lora, parts.size)
    if not estimate.fits:
        return failed(ctx, job, "does_not_fit", _too_large(estimate, offer))
    spec = RunSpec(
        job_id=job.id,
        base=base_ref(entry),
        train=_data(layout.TRAIN, parts.train),
        valid=None if parts.valid is None else _data(layout.VALID, parts.valid),
        lora=options.lora,
        schedule=schedule,
        seed=job.seed,
        code_version=ctx.code_version,
    )
    try:
        quoted = await _quote(ctx, entry, estimate.trained_tokens, options.max_cost)
    except BudgetExceeded as error:
        return failed(ctx, job, error.code, error.text, param="graftwork.max_cost")
    planned = plan_of(job).with_(
        train=parts.train,
        valid=parts.valid,
        held_out=parts.held_out,
        spec=spec,
        estimate=estimate.to_json(),
        quote=quoted,
        seconds=estimate.seconds,
        memory=estimate.memory_bytes if offer is not None and _room(offer) else 0,
        on_gpu=offer is not None and offer.gpus > 0,
    )
    return Step(
        move=Phase.QUEUED,
        changes={"plan": planned},
        notes=(
            *_held_out(parts),
            _estimate(estimate, quoted),
            Note(message="Files validated, moving job to queued state"),
        ),
    )


def _fitted(
    offers: list[Offer], entry: CatalogueEntry, schedule: Schedule, lora: LoraSpec, size: DataSize
) -> tuple[Schedule, Offer | None, Plan]:
    """As ``_estimated``; steps are split until they fit: the gradient stays the whole batch's."""
    offer, estimate = _estimated(offers, entry, schedule, lora, size)
    while not estimate.fits and schedule.accumulation < schedule.batch_size:
        parts = min(2 * schedule.accumulation, schedule.batch_size)
        why = f"a step is computed in {parts} parts, so that it fits into the machine's memory"
        explained = {**schedule.explained, "accumulation": why}
        schedule = schedule.model_copy(update={"accumulation": parts, "explained": explained})
        offer, estimate = _estimated(offers, entry, schedule, lora, size)
    return schedule, offer, estimate


def _estimated(
    offers: list[Offer], entry: CatalogueEntry, schedule: Schedule, lora: LoraSpec, size: DataSize
) -> tuple[Offer | None, Plan]:
    """The plan on the cheapest machine on offer that it fits on, else on the largest; on any if none is."""
    if not offers:
        return None, plan(entry, schedule, lora, size)
    plans = [
        plan(
            entry,
            schedule,
            lora,
            size,
            memory=_room(offer),
            device="gpu" if offer.gpus else "cpu",
            cores=offer.cores,
        )
        for offer in offers
    ]
    pairs = list(zip(offers, plans, strict=True))
    return next((pair for pair in pairs if pair[1].fits), max(pairs, key=lambda pair: _room(pair[0]) or 0))


def _room(offer: Offer) -> int | None:
    """Bytes that training may fill there; None where the offer does not say."""
    return (offer.gpu_memory if offer.gpus else offer.memory) or None


def _too_large(estimate: Plan, offer: Offer | None) -> str:
    has = (_room(offer) or 0) if offer is not None else 0
    kind = "GPU" if offer is not None and offer.gpus else "machine"
    largest = max(estimate.memory, key=lambda part: estimate.memory[part])
    return (
        f"Training needs about {_gib(estimate.memory_bytes)} of memory (most of it for {largest}), and the "
        f"largest {kind} on offer has {_gib(has)}. Lower graftwork.max_length or "
        "graftwork.lora.rank, choose a smaller base model, or offer a larger machine."
    )


def _gib(size: int) -> str:
    return f"{size / (1 << 30):.1f} GiB"


async def _parts(ctx: Context, job: Job, renderer: Renderer, max_length: int) -> _Parts:
    known = plan_of(job)
    if known.train is None:
        raise PlatformError(f"Job {job.id} was never validated.", code="rows_missing")
    train_part, valid_part, held_out = known.train, known.valid, False
    train = await _rows(ctx, train_part)
    valid = [] if valid_part is None else await _rows(ctx, valid_part)
    if valid_part is None:
        train, valid = await asyncio.to_thread(split, train, options_of(job).holdout, job.seed)
        held_out = bool(valid)
    if held_out:
        train_part, valid_part = await _stored(ctx, train), await _stored(ctx, valid)
    counted = await asyncio.to_thread(measure, train, renderer, max_length)
    looked_at = await asyncio.to_thread(measure, valid, renderer, max_length)
    size = DataSize(
        rows=counted.rows,
        tokens=counted.tokens,
        labelled=counted.labelled,
        # Held-out rows may be longer than any row trained on: they are measured whole all the same.
        longest=max(counted.longest, looked_at.longest),
        valid_rows=looked_at.rows,
        valid_tokens=looked_at.tokens,
        valid_longest=looked_at.longest,
    )
    return _Parts(train_part, valid_part, held_out, size)


async def _rows(ctx: Context, part: Part) -> list[Row]:
    return await asyncio.to_thread(read_canonical, await ctx.artifacts.get(part.sha256))


async def _stored(ctx: Context, rows: list[Row]) -> Part:
    return Part(sha256=await ctx.artifacts.put(await asyncio.to_thread(canonical, rows)), rows=len(rows))


async def _quote(ctx: Context, entry: CatalogueEntry, tokens: int, max_cost: str | None) -> Quote:
    """At today's prices; a base model that has none yet gets its list prices."""
    listed = ModelPrice(train=entry.prices.train, input=entry.prices.input, output=entry.prices.output)
    async with ctx.store.begin() as tx:
        book = await ensure_prices(tx, {entry.name: listed})
    return quote(book, entry.name, tokens, max_cost=max_cost)


def _data(path: str, part: Part) -> DataRef:
    return DataRef(path=path, sha256=part.sha256, rows=part.rows)


def _held_out(parts: _Parts) -> tuple[Note, ...]:
    if not parts.held_out or parts.valid is None:
        return ()
    message = (
        f"No validation file was given: {parts.valid.rows} of {parts.valid.rows + parts.train.rows} rows "
        "are held out to measure the adapter on."
    )
    return (Note(message=message, data={"code": "held_out", "rows": parts.valid.rows}),)


def _estimate(estimate: Plan, quoted: Quote) -> Note:
    message = (
        f"Estimate: {estimate.steps} steps, {estimate.trained_tokens} tokens, about "
        f"{_duration(estimate.seconds)}, {dollars(quoted.amount)}."
    )
    data = {"code": "estimate", "seconds": estimate.seconds, "tokens": quoted.tokens, "amount": quoted.amount}
    return Note(message=message, data=data)


def _duration(seconds: float) -> str:
    minutes = seconds / 60
    return f"{seconds:.0f} seconds" if minutes < 2 else f"{minutes:.0f} minutes"
