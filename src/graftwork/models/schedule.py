"""From what a customer asked to numbers: every ``auto`` is chosen by a stated rule and explained."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil

from graftwork.core.specs import Hyperparameters, Method, Schedule, TrainingOptions
from graftwork.models.entry import CatalogueEntry
from graftwork.models.memory import adapter_parameters
from graftwork.models.rates import capacity, rate_of

STEPS_WANTED = 300
"""Optimizer steps a small adapter wants; more epochs than that only repeat the rows (docs/training.md)."""
MAX_EPOCHS: dict[Method, int] = {"sft": 10, "dpo": 3, "orpo": 5, "kto": 3, "cpt": 3}
"""Most passes chosen by ourselves: preferences are overlearnt soon, and raw text is not to be recited."""
BATCH_SHARE = 0.002
"""Rows per step as a share of all rows; LoRA tolerates large batches badly ("LoRA Without Regret", 2025)."""
SMALLEST_BATCH, LARGEST_BATCH = 8, 256
LOOKS = 10
"""Evaluations over a run, each with a checkpoint."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DataSize:
    """The sizes of a training set that decide a schedule; ``Report.size`` of graftwork.data has the same
    fields.

    ``rows`` counts examples (a preference pair is one), ``tokens`` all their tokens (of both answers).
    ``tokens`` counts after cutting at the length limit the rows were measured with; ``longest`` and
    ``valid_longest`` (of the validation rows) before it.
    """

    rows: int
    tokens: int
    labelled: int
    longest: int
    valid_rows: int = 0
    valid_tokens: int = 0
    valid_longest: int = 0


def choose(
    asked: Hyperparameters,
    options: TrainingOptions,
    entry: CatalogueEntry,
    size: DataSize,
    method: Method = "sft",
) -> Schedule:
    """The schedule of a run: what was asked, and rules where ``auto`` was asked, each explained in a
    sentence.

    ``size.rows`` must be the rows trained on, after a hold-out was taken.
    """
    why: dict[str, str] = {}
    rows = max(size.rows, 1)
    batch = _batch(asked, rows, why)
    steps_per_epoch = ceil(rows / batch)
    epochs = _epochs(asked, steps_per_epoch, method, why)
    total = epochs * steps_per_epoch
    multiplier, rate = _rate(asked, options, entry, method, total, why)
    eval_every = _every(options.eval_every, total, "eval_every", "evaluations", why)
    checkpoint_every = _checkpoints(options, eval_every, why)
    why["total_steps"] = f"{epochs} epochs of {steps_per_epoch} steps ({rows} rows, {batch} a step)"
    why["rank"] = capacity(adapter_parameters(entry.shape, options.lora), size.labelled, options.lora)
    return Schedule(
        n_epochs=epochs,
        batch_size=batch,
        accumulation=min(options.accumulation, batch),
        learning_rate_multiplier=multiplier,
        learning_rate=rate,
        warmup_ratio=options.warmup_ratio,
        decay=options.decay,
        weight_decay=options.weight_decay,
        max_grad_norm=options.max_grad_norm,
        max_length=_max_length(options, entry, size, why),
        eval_every=eval_every,
        checkpoint_every=checkpoint_every,
        early_stopping=options.early_stopping,
        total_steps=total,
        lora_plus=options.lora_plus,
        neftune_alpha=options.neftune_alpha,
        explained=why,
    )


def _batch(asked: Hyperparameters, rows: int, why: dict[str, str]) -> int:
    if asked.batch_size != "auto":
        batch = min(asked.batch_size, rows)
        less = f", of which there are only {rows} rows" if batch < asked.batch_size else ""
        why["batch_size"] = f"asked: {asked.batch_size}{less}"
        return batch
    share = round(rows * BATCH_SHARE)
    batch = min(max(share, SMALLEST_BATCH), LARGEST_BATCH)
    if rows < 4 * batch:
        batch = max(1, rows // 4)
        why["batch_size"] = f"automatic: a quarter of the {rows} rows, so that an epoch has several steps"
    elif batch == share:
        why["batch_size"] = f"automatic: {BATCH_SHARE:.1%} of {rows} rows"
    else:
        limit = "at least" if batch == SMALLEST_BATCH else "at most"
        why["batch_size"] = f"automatic: {BATCH_SHARE:.1%} of {rows} rows, {limit} {batch}"
    return batch


def _epochs(asked: Hyperparameters, steps_per_epoch: int, method: Method, why: dict[str, str]) -> int:
    if asked.n_epochs != "auto":
        why["n_epochs"] = f"asked: {asked.n_epochs}"
        return asked.n_epochs
    most = MAX_EPOCHS[method]
    epochs = min(max(1, round(STEPS_WANTED / steps_per_epoch)), most)
    why["n_epochs"] = (
        f"automatic: about {STEPS_WANTED} steps at {steps_per_epoch} steps an epoch, "
        f"between 1 and {most} epochs"
    )
    return epochs


def _rate(
    asked: Hyperparameters,
    options: TrainingOptions,
    entry: CatalogueEntry,
    method: Method,
    steps: int,
    why: dict[str, str],
) -> tuple[float, float]:
    """The multiplier, and the peak rate."""
    wanted = asked.learning_rate_multiplier
    multiplier = 1.0 if wanted == "auto" else wanted
    rate = rate_of(entry, method, steps, options.lora_plus)
    why["learning_rate_multiplier"] = "automatic: 1" if wanted == "auto" else f"asked: {wanted:g}"
    why["learning_rate"] = f"{rate.value:g} ({rate.why}) times the multiplier {multiplier:g}"
    return multiplier, rate.value * multiplier


def _every(asked: int | str, total: int, field: str, what: str, why: dict[str, str]) -> int:
    if isinstance(asked, int):
        why[field] = f"asked: {asked}"
        return asked
    why[field] = f"automatic: {LOOKS} {what} over {total} steps"
    return max(1, ceil(total / LOOKS))


def _checkpoints(options: TrainingOptions, eval_every: int, why: dict[str, str]) -> int:
    if options.checkpoint_every != "auto":
        why["checkpoint_every"] = f"asked: {options.checkpoint_every}"
        return options.checkpoint_every
    why["checkpoint_every"] = "automatic: with every evaluation, so that the best step can be kept"
    return eval_every


def _max_length(options: TrainingOptions, entry: CatalogueEntry, size: DataSize, why: dict[str, str]) -> int:
    longest = max(
        size.longest, size.valid_longest
    )  # a validation row must not lose the answer it is scored by
    limits = [(longest, "the longest row"), (entry.context, f"the context of {entry.name}")]
    if options.max_length is not None:
        limits.append((options.max_length, "max_length as asked"))
    length, reason = min((limit for limit in limits if limit[0] > 0), key=lambda limit: limit[0])
    cut = "" if length >= longest else f"; longer rows (up to {longest}) lose their end"
    why["max_length"] = f"{reason}{cut}"
    return max(length, 8)
