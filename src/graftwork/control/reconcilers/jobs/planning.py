"""Planning: rows are held out, the schedule is chosen and explained, and the price is quoted."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from graftwork.billing import Quote, ensure_prices, quote
from graftwork.compute.port import Need, Offer
from graftwork.control.plan import Part, options_of, plan_of
from graftwork.control.prices import listed
from graftwork.control.reconcilers.jobs.admission import cheapest
from graftwork.control.reconcilers.jobs.context import Context
from graftwork.control.reconcilers.jobs.endings import failed
from graftwork.control.reconcilers.jobs.step import Note, Step
from graftwork.control.services.methods import PREFERENCES, quantization_of, trainer_of
from graftwork.control.services.plans import size_of
from graftwork.core.errors import BudgetExceeded, InvalidRequest, PlatformError
from graftwork.core.money import dollars
from graftwork.core.nouns import Job
from graftwork.core.specs import DataRef, Hyperparameters, RunSpec, StartRef
from graftwork.core.states import Phase
from graftwork.data import Renderer, Row, canonical, read_canonical, split
from graftwork.models import CatalogueEntry, DataSize, Plan, Target, base_ref, choose, fit
from graftwork.models.trainers import check
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
    method, trainer = options.method or "sft", trainer_of(options)
    start = await _start(ctx, job)
    if start is not None and start.files == {}:
        message = f"{start.model}, which the job was to go on from, is gone."
        return failed(ctx, job, "start_gone", message, param="model")
    chosen = choose(asked, options, entry, parts.size, method)
    found = fit(
        entry,
        chosen,
        options.lora,
        parts.size,
        targets_of(await cheapest(ctx, Need())),
        method=method,
        trainer=trainer,
        quantization=quantization_of(options),
    )
    estimate, target = found.plan, found.target
    if not estimate.fits:
        return failed(ctx, job, "does_not_fit", _too_large(estimate, target))
    spec = RunSpec(
        job_id=job.id,
        base=base_ref(entry),
        method=method,
        preference=options.preference if method in PREFERENCES else None,
        trainer=trainer,
        start=start,
        train=_data(layout.TRAIN, parts.train),
        valid=None if parts.valid is None else _data(layout.VALID, parts.valid),
        lora=options.lora,
        schedule=found.schedule,
        quantization=estimate.quantization,
        seed=job.seed,
        code_version=ctx.code_version,
    )
    try:
        check(spec, entry.trainers, ctx.environment)
    except InvalidRequest as error:
        return failed(ctx, job, error.code, error.text, param=error.param)
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
        memory=estimate.memory_bytes if target is not None and target.memory else 0,
        on_gpu=target is not None and target.device == "gpu",
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


def targets_of(offers: Sequence[Offer]) -> list[Target]:
    """The machines on offer as the planner sees them."""
    return [
        Target(
            name=f"{offer.provider} {offer.gpu or f'{offer.cores} cores'}",
            memory=_room(offer),
            device="gpu" if offer.gpus else "cpu",
            cores=offer.cores,
            gpu=offer.gpu,
            price_per_hour=offer.price_per_hour,
        )
        for offer in offers
    ]


def _room(offer: Offer) -> int | None:
    """Bytes that training may fill there; None where the offer does not say."""
    return (offer.gpu_memory if offer.gpus else offer.memory) or None


def _too_large(estimate: Plan, target: Target | None) -> str:
    has = (target.memory or 0) if target is not None else 0
    kind = "GPU" if target is not None and target.device == "gpu" else "machine"
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
    method = options_of(job).method or "sft"
    size = await asyncio.to_thread(size_of, train, valid, renderer, max_length, method)
    return _Parts(train_part, valid_part, held_out, size)


async def _start(ctx: Context, job: Job) -> StartRef | None:
    """What the run begins with; without files when that is gone."""
    asked = job.asked.get("start")
    if asked is None:
        return None
    async with ctx.store.read() as tx:
        weights = await tx.weights.get(asked["weights"])
    return StartRef(model=asked["model"], files={} if weights is None else dict(weights.files))


async def _rows(ctx: Context, part: Part) -> list[Row]:
    return await asyncio.to_thread(read_canonical, await ctx.artifacts.get(part.sha256))


async def _stored(ctx: Context, rows: list[Row]) -> Part:
    return Part(sha256=await ctx.artifacts.put(await asyncio.to_thread(canonical, rows)), rows=len(rows))


async def _quote(ctx: Context, entry: CatalogueEntry, tokens: int, max_cost: str | None) -> Quote:
    """At today's prices; a base model that has none yet gets its list prices."""
    async with ctx.store.begin() as tx:
        book = await ensure_prices(tx, {entry.name: listed(entry)})
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
