"""Learning rates and prices by rule, where a model has none of its own."""

from __future__ import annotations

from graftwork.models.entry import Prices, Shape

_QWEN, _LLAMA = 0.0775, 0.781
"""How the rate falls with the width, per family: fitted in Thinking Machines' "LoRA Without Regret"
(2025)."""

SEEDLING_RATE = 3e-3
"""Tried on examples (docs/training.md); the rule below was fitted on models a thousand times larger."""


def lora_rate(shape: Shape) -> tuple[float, str]:
    """Peak LoRA learning rate of a base model, and one sentence why.

    Source: J. Schulman et al., "LoRA Without Regret" (2025), and the cookbook beside it: LoRA on all linear
    layers learns best at about ten times the rate of full fine-tuning, almost independently of its rank:
    ``5e-5 * 10 * (2000 / hidden) ** exponent``, with an exponent of 0.0775 for Qwen and 0.781 for Llama.
    Families nobody fitted take Llama's, the more careful of the two for wide models.
    """
    exponent = _QWEN if shape.family.startswith("qwen") else _LLAMA
    rate = float(f"{5e-5 * 10 * (2000 / shape.hidden) ** exponent:.2g}")
    why = (
        f"ten times a full fine-tune's rate, scaled to width {shape.hidden} "
        f'with exponent {exponent} ("LoRA Without Regret")'
    )
    return rate, why


def prices(parameters: int) -> Prices:
    """List prices of a model by its size: a floor, and so much per billion weights. Operators set their
    own."""
    billions = parameters / 1e9
    return Prices(
        train=50_000 + round(60_000 * billions),
        input=20_000 + round(20_000 * billions),
        output=40_000 + round(40_000 * billions),
    )
