"""The learning rate of each step, as transformers' schedules count it (so that curves can be compared).

Warm-up rises linearly from 0 over ``ceil(ratio · total)`` steps; cosine decay is Loshchilov & Hutter 2016
(arXiv:1608.03983) without restarts.
"""

from __future__ import annotations

import math

from graftwork.core.specs import Schedule


def learning_rate(schedule: Schedule, step: int, total_steps: int) -> float:
    """Rate of the ``step``-th optimizer step (from 0) of ``total_steps``."""
    warmup = math.ceil(total_steps * schedule.warmup_ratio)
    if step < warmup:
        return schedule.learning_rate * step / max(1, warmup)
    done = (step - warmup) / max(1, total_steps - warmup)
    match schedule.decay:
        case "cosine":
            return schedule.learning_rate * max(0.0, 0.5 * (1 + math.cos(math.pi * done)))
        case "linear":
            return schedule.learning_rate * max(0.0, 1 - done)
        case "constant":
            return schedule.learning_rate
