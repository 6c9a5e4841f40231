"""Does it fit, how long does it take, what does it cost, and on what: before anything is bought."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from graftwork.core.money import dollars, seconds_cost, tokens_cost
from graftwork.core.specs import Auto, LoraSpec, Method, Quantization, Schedule, TrainerName
from graftwork.models.entry import CatalogueEntry, Shape
from graftwork.models.memory import SEQUENCES, Device, Load, adapter_parameters, profile
from graftwork.models.schedule import DataSize
from graftwork.models.steptime import LOADING, Hardware, operations, step_seconds, together
from graftwork.models.support import SUPPORT, servers

__all__ = ["Fitted", "Plan", "Target", "adapter_parameters", "fit", "load_of", "plan"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """The machine a plan is for.

    Attributes:
        name: what it is called, for people.
        memory: bytes training may fill (of the GPU, if there is one); None: not known, so all fits.
        device: where the products run; weights are fp32 on a CPU, in the model's own type on a GPU.
        cores: CPU cores; they count on a CPU only.
        gpu: the GPU's name, by which its speed is looked up.
        price_per_hour: micro-dollars for the whole machine; None: not known.
        rate: measured trained tokens a second of this model on such a machine: the best source there is.
    """

    name: str = ""
    memory: int | None = None
    device: Device = "cpu"
    cores: int = 2
    gpu: str | None = None
    price_per_hour: int | None = None
    rate: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """An estimate of a run.

    Attributes:
        fits: whether ``memory_bytes`` is within the memory given; True when none was given.
        memory_bytes: peak, estimated; ``memory`` holds its parts.
        trained_tokens: tokens times epochs, as billed.
        seconds: expected duration from the first row read to the last file written.
        price: micro-dollars for the trained tokens.
        machine_cost: micro-dollars the machine would cost for ``seconds``; None where its price is not known.
        recompute: whether activations are recomputed in the backward pass instead of held.
        machine: what it would run on; ``method``, ``trainer`` and ``quantization``: how.
        runs: how many runs share the machine, this one among them.
        why: the reasoning, one sentence each.
    """

    fits: bool
    memory_bytes: int
    memory: dict[str, int]
    trained_tokens: int
    steps: int
    seconds: float
    price: int
    why: tuple[str, ...]
    machine_cost: int | None = None
    recompute: bool = False
    machine: str = ""
    method: Method = "sft"
    trainer: TrainerName = "native"
    quantization: Quantization = "none"
    runs: int = 1

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {**asdict(self), "why": list(self.why)}


def load_of(
    schedule: Schedule,
    lora: LoraSpec,
    size: DataSize,
    *,
    method: Method = "sft",
    trainer: TrainerName = "native",
) -> Load:
    """What a run brings into each micro-batch at most: batches are made of rows of like length, so the
    longest of them stand together."""
    rows = -(-schedule.batch_size // schedule.accumulation) * SEQUENCES[method]
    tokens = rows * schedule.max_length
    labelled = round(tokens * size.labelled / max(size.tokens, 1))
    return Load(
        lora=lora,
        tokens=tokens,
        labelled=labelled,
        method=method,
        trainer=trainer,
        longest=schedule.max_length,
    )


def plan(
    entry: CatalogueEntry,
    schedule: Schedule,
    lora: LoraSpec,
    size: DataSize,
    *,
    memory: int | None = None,
    device: Device = "cpu",
    cores: int = 2,
    rate: float | None = None,
    target: Target | None = None,
    method: Method = "sft",
    trainer: TrainerName = "native",
    quantization: Quantization = "none",
    neighbours: Sequence[Load] = (),
    recompute: bool | None = None,
) -> Plan:
    """Estimate a run.

    Activations are held when they fit, and recomputed when that makes it fit: recomputing costs about a
    third more time, so it is never a default.

    Args:
        entry: the base model.
        schedule: from ``choose``.
        lora: the adapter's shape.
        size: the training rows (after the hold-out), cut at ``schedule.max_length``, and the validation rows.
        memory, device, cores, rate: a ``Target`` in short.
        target: the machine; instead of those four.
        method, trainer, quantization: how it is trained.
        neighbours: runs that share the machine and the base.
        recompute: whether activations are recomputed; None: where that makes it fit.
    """
    where = target or Target(memory=memory, device=device, cores=cores, rate=rate)
    load = load_of(schedule, lora, size, method=method, trainer=trainer)
    loads = [load, *neighbours]
    parts, again = _memory(entry.shape, loads, where, quantization, recompute)
    total = sum(parts.values())
    tokens = size.tokens * schedule.n_epochs
    seconds, how = _seconds(entry.shape, schedule, load, size, where, quantization, again)
    price = tokens_cost(tokens, entry.prices.train)
    fits = where.memory is None or total <= where.memory
    cost = None if where.price_per_hour is None else seconds_cost(seconds, where.price_per_hour)
    why = [
        _said_memory(parts, total, where),
        f"Tokens: {size.tokens} in {size.rows} rows, {schedule.n_epochs} times, "
        f"in {schedule.total_steps} steps.",
        f"Time: {how}.",
        f"Price: {tokens} trained tokens at {dollars(entry.prices.train)} a million: {dollars(price)}.",
    ]
    why += _said_serving(entry, lora)
    if again and fits:
        why.append("Activations are recomputed in the backward pass: held, they would not fit.")
    if cost is not None and where.price_per_hour:
        hourly = dollars(where.price_per_hour)
        why.append(f"Machine: {where.name or 'as given'} at {hourly} an hour: {dollars(cost)}.")
    if neighbours:
        company = together(entry.shape, loads, _hardware(where), quantization=quantization, recompute=again)
        why.append(f"Company: {company.why}.")
    if not fits:
        why.append(_advice(entry, loads, where, quantization))
    return Plan(
        fits=fits,
        memory_bytes=total,
        memory=parts,
        trained_tokens=tokens,
        steps=schedule.total_steps,
        seconds=round(seconds, 1),
        price=price,
        why=tuple(why),
        machine_cost=cost,
        recompute=again,
        machine=where.name,
        method=method,
        trainer=trainer,
        quantization=quantization,
        runs=len(loads),
    )


@dataclass(frozen=True, slots=True)
class Fitted:
    """A schedule that fits, where it fits, and its plan; ``target`` is None where no machine is known."""

    schedule: Schedule
    target: Target | None
    plan: Plan


def fit(
    entry: CatalogueEntry,
    schedule: Schedule,
    lora: LoraSpec,
    size: DataSize,
    targets: Sequence[Target],
    *,
    method: Method = "sft",
    trainer: TrainerName = "native",
    quantization: Quantization | Auto = "auto",
) -> Fitted:
    """The plan on the first of ``targets`` (cheapest first) that it fits on; on the largest if on none.

    Where a step is too large it is split into more parts (the gradient stays the whole batch's), or its
    activations are recomputed, whichever is quicker by the model of time; where neither is enough and the
    choice is ours, the base is held in 4 bits on a GPU. What was asked for is planned on any machine.
    """
    asked: tuple[Quantization, ...] = ("none", "nf4") if quantization == "auto" else (quantization,)
    first: Fitted | None = None
    for form in asked:
        ours = form == "nf4" and quantization == "auto"
        fitting = [target for target in targets if target.device == "gpu"] if ours else targets
        if targets and not fitting:
            break
        tried = _split(entry, schedule, lora, size, fitting, method, trainer, form)
        if tried.plan.fits and ours:
            explained = {**tried.schedule.explained, "quantization": _PACKED}
            return replace(tried, schedule=tried.schedule.model_copy(update={"explained": explained}))
        if tried.plan.fits:
            return tried
        first = first or tried
    return first or _split(entry, schedule, lora, size, targets, method, trainer, "none")


_PACKED = "the base is held in 4 bits (NF4): in 16 bits it does not fit into any machine on offer"


def _split(
    entry: CatalogueEntry,
    schedule: Schedule,
    lora: LoraSpec,
    size: DataSize,
    targets: Sequence[Target],
    method: Method,
    trainer: TrainerName,
    quantization: Quantization,
) -> Fitted:
    """On the first target that it fits on in any way, the quickest way: whole, in parts, or recomputed."""

    def on(target: Target | None, way: tuple[int, bool]) -> Fitted:
        in_parts = _in_parts(schedule, *way)
        found = plan(
            entry,
            in_parts,
            lora,
            size,
            target=target,
            method=method,
            trainer=trainer,
            quantization=quantization,
            recompute=way[1],
        )
        return Fitted(in_parts, target, found)

    ways = [(parts, again) for parts in _parts_of(schedule) for again in (False, True)]
    for target in targets:
        tried = [found for way in ways if (found := on(target, way)).plan.fits]
        if tried:
            return min(tried, key=lambda found: found.plan.seconds)
    largest = max(targets, key=lambda target: target.memory or 0, default=None)
    return on(largest, ways[0] if largest is None else ways[-1])


def _parts_of(schedule: Schedule) -> list[int]:
    """As asked, then twice as many each time, up to one row at a time."""
    parts = [schedule.accumulation]
    while parts[-1] < schedule.batch_size:
        parts.append(min(2 * parts[-1], schedule.batch_size))
    return parts


def _in_parts(schedule: Schedule, parts: int, recompute: bool) -> Schedule:
    explained = dict(schedule.explained)
    if parts != schedule.accumulation:
        explained["accumulation"] = (
            f"a step is computed in {parts} parts, so that it fits into the machine's memory"
        )
    if recompute:
        explained["recompute"] = (
            "activations are computed again in the backward pass, so that they fit into the machine's memory"
        )
    return schedule.model_copy(update={"accumulation": parts, "recompute": recompute, "explained": explained})


def _memory(
    shape: Shape,
    loads: Sequence[Load],
    where: Target,
    quantization: Quantization,
    recompute: bool | None,
) -> tuple[dict[str, int], bool]:
    """The parts, and whether activations are recomputed: unless asked, where that makes the difference."""
    if recompute is not None:
        parts = profile(shape, loads, device=where.device, quantization=quantization, recompute=recompute)
        return parts, recompute
    held = profile(shape, loads, device=where.device, quantization=quantization)
    if where.memory is None or sum(held.values()) <= where.memory:
        return held, False
    again = profile(shape, loads, device=where.device, quantization=quantization, recompute=True)
    return (again, True) if sum(again.values()) <= where.memory else (held, False)


def _seconds(
    shape: Shape,
    schedule: Schedule,
    load: Load,
    size: DataSize,
    where: Target,
    quantization: Quantization,
    recompute: bool,
) -> tuple[float, str]:
    """Expected seconds, and how they were reckoned."""
    trained = size.tokens * schedule.n_epochs
    looks = schedule.total_steps // schedule.eval_every
    loading = LOADING[where.device]
    if where.rate is not None:
        seconds = (trained + looks * size.valid_tokens / 3) / where.rate + loading
        return seconds, f"{trained} tokens at a measured {where.rate:,.0f} tokens a second"
    machine = _hardware(where)
    pieces = max(schedule.total_steps * schedule.accumulation, 1)
    share = size.labelled / max(size.tokens, 1)
    usual = replace(
        load, tokens=max(1, round(trained / pieces)), labelled=max(1, round(trained * share / pieces))
    )
    length = size.tokens / max(size.rows * SEQUENCES[load.method], 1)
    options: dict[str, Any] = {"quantization": quantization, "recompute": recompute, "mean_length": length}
    seconds = pieces * step_seconds(shape, [usual], machine, **options)
    looked = replace(usual, tokens=size.valid_tokens, labelled=round(size.valid_tokens * share))
    speed = step_seconds(shape, [usual], machine, **options) / max(operations(shape, usual), 1)
    # a pass without gradients is about half of one with them
    seconds += looks * operations(shape, looked) * speed / 2
    if load.method == "dpo" and load.trainer == "native":
        reference = replace(usual, tokens=size.tokens + size.valid_tokens, labelled=size.labelled)
        seconds += operations(shape, reference) * speed / 2
    why = (
        f"no rate was measured: assumed {machine.said()}, "
        f"{1000 * seconds / pieces:.0f} ms for each of {pieces} parts of steps"
    )
    return seconds + loading, why


def _hardware(where: Target) -> Hardware:
    return Hardware(device=where.device, cores=where.cores, gpu=where.gpu)


def _said_serving(entry: CatalogueEntry, lora: LoraSpec) -> list[str]:
    """Which engines can serve the adapter, where not all can."""
    if entry.family not in SUPPORT:
        return []
    found = servers(entry.shape, lora)
    able = ", ".join(name for name, why in found.items() if not why) or "no engine"
    unable = "; ".join(f"not by {name}: {why}" for name, why in found.items() if why)
    return [f"Serving: by {able}; {unable}."] if unable else []


def _said_memory(parts: dict[str, int], total: int, where: Target) -> str:
    listed = ", ".join(f"{name} {_size(value)}" for name, value in parts.items())
    room = f" of {_size(where.memory)}." if where.memory is not None else "."
    return f"Memory: {listed}; together {_size(total)}{room}"


def _advice(entry: CatalogueEntry, loads: Sequence[Load], where: Target, quantization: Quantization) -> str:
    """What would make it fit, as far as it is known."""
    advice = "It does not fit: raise accumulation, lower max_length or the rank, or take a larger machine"
    if quantization == "none" and where.device == "gpu" and where.memory is not None:
        packed = profile(entry.shape, loads, device="gpu", quantization="nf4", recompute=True)
        if sum(packed.values()) <= where.memory:
            return f"{advice}; in 4 bits (quantization nf4) it would need {_size(sum(packed.values()))}."
    return f"{advice}."


def _size(count: int) -> str:
    return f"{count / (1 << 30):.1f} GiB" if count >= 1 << 30 else f"{count / (1 << 20):.0f} MiB"
