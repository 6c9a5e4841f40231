"""How a job is to be trained: OpenAI's ``method`` and our options, made into one answer and checked."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import Field

from graftwork.core.errors import InvalidRequest
from graftwork.core.specs import (
    Auto,
    Hyperparameters,
    LoraSpec,
    Method,
    Quantization,
    TrainerName,
    TrainingOptions,
)

WIRE: dict[str, Method] = {"supervised": "sft", "dpo": "dpo"}
"""OpenAI's methods, and ours by their names."""
PREFERENCES: frozenset[Method] = frozenset({"dpo", "orpo", "kto"})
NATIVE: frozenset[Method] = frozenset({"sft", "dpo", "cpt"})
"""What the native trainer trains."""
SHAPE = ("rank", "alpha", "targets", "rslora", "dora", "expert_rank")
"""Of an adapter: what a run that goes on from one cannot change."""


class DpoHyperparameters(Hyperparameters):
    """OpenAI's hyperparameters of DPO."""

    beta: Annotated[float, Field(gt=0, le=2)] | Auto = "auto"


def resolved(wire: str | None, options: TrainingOptions, beta: float | str | None) -> TrainingOptions:
    """The options with the method that is meant, its beta, and the trainer that trains it.

    Args:
        wire: ``method.type`` of the request; None when it says nothing.
        options: as asked under ``graftwork``.
        beta: of ``method.dpo.hyperparameters``.

    Raises:
        InvalidRequest: ``method_unsupported``, ``method_conflict``, ``method_needs_trainer``,
            ``option_unsupported`` or ``dora_not_served``.
    """
    if wire is not None and wire not in WIRE:
        what = "Reinforcement fine-tuning" if wire == "reinforcement" else f"Method {wire!r}"
        raise InvalidRequest(
            f"{what} is not supported; this server trains by supervised, dpo, and by orpo, kto and cpt.",
            fix='Send method={"type": "supervised"} or "dpo", or graftwork={"method": "orpo"}.',
            code="method_unsupported",
            param="method.type",
        )
    named: Method = WIRE[wire or "supervised"]
    if options.method is not None and options.method != named and wire == "dpo":
        raise InvalidRequest(
            f"method.type says dpo, graftwork.method says {options.method}.",
            fix="Leave one of them out.",
            code="method_conflict",
            param="graftwork.method",
        )
    method = options.method or named
    preference = options.preference
    if isinstance(beta, float | int):
        preference = preference.model_copy(update={"beta": float(beta)})
    _check(method, options)
    return options.model_copy(update={"method": method, "preference": preference})


def trainer_of(options: TrainingOptions) -> TrainerName:
    """The trainer of a job whose options are resolved: the native one wherever it can."""
    if options.trainer != "auto":
        return options.trainer
    return "native" if (options.method or "sft") in NATIVE else "trl"


def quantization_of(options: TrainingOptions) -> Quantization | Auto:
    """How the base may be held; TRL holds it as it is."""
    return "none" if trainer_of(options) == "trl" else options.quantization


def continued(start: LoraSpec, given: Mapping[str, Any] | None, model: str) -> LoraSpec:
    """The shape of an adapter that goes on from ``model``'s: its own, but for what may be given anew.

    Args:
        start: the shape of what is continued.
        given: ``graftwork.lora`` of the request, as it came.

    Raises:
        InvalidRequest: ``start_mismatch``, a part of the shape was asked for that is another.
    """
    merged = LoraSpec.model_validate({**start.model_dump(), **(given or {})})
    for name in SHAPE:
        has, wants = start.model_dump()[name], merged.model_dump()[name]
        if has != wants:
            raise InvalidRequest(
                f"{model} cannot be continued with {name} {wants}: it has {has}.",
                fix=f"Leave graftwork.lora.{name} out: the job takes the shape of what it goes on from.",
                code="start_mismatch",
                param=f"graftwork.lora.{name}",
            )
    return merged


def _check(method: Method, options: TrainingOptions) -> None:
    if options.trainer == "native" and method not in NATIVE:
        raise InvalidRequest(
            f"The native trainer does not train by {method}.",
            fix="Leave graftwork.trainer out, or choose trl.",
            code="method_needs_trainer",
            param="graftwork.trainer",
        )
    if method == "dpo" and options.trainer == "trl" and options.preference.label_smoothing:
        raise InvalidRequest(
            "TRL's DPO has no conservative label smoothing.",
            fix="Leave graftwork.trainer out: the native trainer has it.",
            code="option_unsupported",
            param="graftwork.preference.label_smoothing",
        )
    if options.quantization == "nf4" and (options.trainer == "trl" or method not in NATIVE):
        raise InvalidRequest(
            "TRL trains here on the base as it is, not in 4 bits.",
            fix="Leave graftwork.quantization out.",
            code="option_unsupported",
            param="graftwork.quantization",
        )
    if options.lora.dora:
        raise InvalidRequest(
            "No engine of this server serves DoRA adapters, so one could be neither measured nor called.",
            fix="Use rslora; or train a run folder with DoRA by `graft trainer` and serve it merged.",
            code="dora_not_served",
            param="graftwork.lora.dora",
        )
