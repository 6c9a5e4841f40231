"""What trackers are told of: steps and the run they are of."""

from __future__ import annotations

from typing import Any

from graftwork.runs.documents import Metrics
from graftwork.trackers.port import Subject


def step(number: int, **changes: Any) -> Metrics:
    """A step's metrics; loss 2 / number."""
    given: dict[str, Any] = {"at": 100.0 + number, "step": number, "epoch": number / 10, "loss": 2.0 / number}
    given |= {"lr": 1e-3, "grad_norm": 1.0, "tokens": 100 * number, "tokens_per_s": 50.0, "memory_mb": 10.0}
    return Metrics(**{**given, **changes})


def subject(**changes: Any) -> Subject:
    """A run of which nothing was told yet."""
    given: dict[str, Any] = {"job_id": "ftjob-1", "group": "acme/main", "name": "support-1"}
    given |= {"parameters": {"base": "seedling"}, "started_at": 99.0}
    return Subject(**{**given, **changes})
