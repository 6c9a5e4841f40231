"""Learning rates and prices by rule, where a model has none of its own."""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt

from graftwork.core.specs import LoraSpec, Method
from graftwork.models.entry import CatalogueEntry, Prices, Shape

_QWEN, _LLAMA = 0.0775, 0.781
"""How the rate falls with the width, per family: fitted in Thinking Machines' "LoRA Without Regret"
(2025)."""

SEEDLING_RATE = 3e-3
"""Tried on examples (docs/training.md); the rule below was fitted on models a thousand times larger."""

SHORT_RUN = 100
"""Steps up to which a run is short: there LoRA's best rate is 15 times full fine-tuning's, not 10."""
_SHORT_FACTOR = 1.5


@dataclass(frozen=True, slots=True)
class MethodRate:
    """A method's share of the supervised rate, and why."""

    share: float
    why: str


METHOD_RATES: dict[Method, MethodRate] = {
    "sft": MethodRate(1.0, ""),
    "cpt": MethodRate(
        0.25, "a quarter of the supervised rate: much more text is read, and what is known must not be lost"
    ),
    "dpo": MethodRate(0.05, "a twentieth of the supervised rate, as TRL's own defaults (1e-6 to 2e-5)"),
    "kto": MethodRate(0.05, "a twentieth of the supervised rate, as TRL's own defaults (1e-6 to 2e-5)"),
    "orpo": MethodRate(
        0.25, "a quarter of the supervised rate: the paper's 5e-6 for a 7B model is to TRL's 2e-5 for SFT"
    ),
}
"""Full fine-tuning's usual rate of each method over that of supervised tuning; LoRA keeps the proportion."""


@dataclass(frozen=True, slots=True)
class Rate:
    """A peak learning rate at multiplier 1, and one sentence why."""

    value: float
    why: str


def lora_rate(shape: Shape) -> tuple[float, str]:
    """Peak LoRA learning rate of a base model, and one sentence why.

    Source: J. Schulman et al., "LoRA Without Regret" (2025), and the cookbook beside it: LoRA on all linear
    layers learns best at about ten times the rate of full fine-tuning, almost independently of its rank:
    ``5e-5 * 10 * (2000 / hidden) ** exponent``, with an exponent of 0.0775 for Qwen and 0.781 for Llama.
    Families nobody fitted take Llama's, the more careful of the two for wide models.
    """
    exponent = _QWEN if shape.family.startswith("qwen") else _LLAMA
    rate = _rounded(5e-5 * 10 * (2000 / shape.hidden) ** exponent)
    why = (
        f"ten times a full fine-tune's rate, scaled to width {shape.hidden} "
        f'with exponent {exponent} ("LoRA Without Regret")'
    )
    return rate, why


def rate_of(entry: CatalogueEntry, method: Method, steps: int, lora_plus: float | None = None) -> Rate:
    """Peak rate of a run of ``steps`` steps by ``method``, at multiplier 1.

    - Supervised, the model's own rate (``lora_rate`` where nobody tried one).
    - Up to ``SHORT_RUN`` steps 1.5 times that, where the rate is the rule's: fifteen times full
      fine-tuning's.
    - Other methods their share (``METHOD_RATES``).
    - LoRA+ (Hayou et al. 2024, arXiv:2402.12354): the rate is A's, B's is ``lora_plus`` times that. A's is
      divided by the root of the ratio, so that the product of the two, which the first change of W follows,
      stays what it was.
    """
    value, reasons = entry.lora_learning_rate, [entry.rate_reason]
    by_rule = value == lora_rate(entry.shape)[0]
    if by_rule and steps <= SHORT_RUN:
        value *= _SHORT_FACTOR
        reasons.append(f"half as much again for a run of at most {SHORT_RUN} steps")
    chosen = METHOD_RATES[method]
    if method != "sft":
        value *= chosen.share
        reasons.append(chosen.why)
    if lora_plus is not None and lora_plus > 1:
        value /= sqrt(lora_plus)
        reasons.append(
            f"divided by the root of {lora_plus:g} for A, and multiplied by it for B (LoRA+), "
            "so that their product stays"
        )
    return Rate(value if len(reasons) == 1 else _rounded(value), "; ".join(reasons))


def capacity(parameters: int, labelled: int, lora: LoraSpec) -> str:
    """One sentence on whether an adapter of so many weights can hold what so many labelled tokens say.

    The learning rate does not depend on the rank, the capacity does: "LoRA Without Regret" reckons with two
    bits a weight (Allen-Zhu and Li, "Physics of Language Models" 3.3) and about one bit a token to learn.
    """
    holds, says = 2 * parameters, labelled
    head = f"{lora.rank}: {parameters:,} weights hold about {holds / 8e6:.1f} MB"
    if says <= holds:
        return f"{head}, the {labelled:,} labelled tokens say at most {says / 8e6:.1f} MB"
    short = f"{head}, less than the {says / 8e6:.1f} MB of {labelled:,} labelled tokens"
    return f"{short}: a higher rank may learn more"


def prices(parameters: int) -> Prices:
    """List prices of a model by its size: a floor, and so much per billion weights. Operators set their
    own."""
    billions = parameters / 1e9
    return Prices(
        train=50_000 + round(60_000 * billions),
        input=20_000 + round(20_000 * billions),
        output=40_000 + round(40_000 * billions),
    )


def _rounded(rate: float) -> float:
    return float(f"{rate:.2g}")
