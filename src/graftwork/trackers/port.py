"""What a tracker is to us."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from graftwork.runs.documents import Metrics

Ending = Literal["succeeded", "failed", "cancelled"]

_LEFT_OUT = {"type", "at", "step"}
_NAMES = {
    "loss": "train/loss",
    "train_accuracy": "train/accuracy",
    "lr": "train/learning_rate",
    "grad_norm": "train/grad_norm",
    "valid_loss": "valid/loss",
    "valid_accuracy": "valid/accuracy",
    "full_valid_loss": "valid/full_loss",
    "tokens_per_s": "speed/tokens_per_s",
    "memory_mb": "speed/memory_mb",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """One job as trackers know it.

    Attributes:
        job_id: the job.
        group: what jobs are gathered under: organization and project, ``acme/default``.
        name: what people call it: the adapter, and the job's tail.
        parameters: what it was trained with.
        started_at: unix seconds.
        remote: the tracker's own id of the run, as ``tell`` gave it; None before the first time.
        step: the highest step told.
    """

    job_id: str
    group: str
    name: str
    parameters: Mapping[str, str]
    started_at: float
    remote: str | None = None
    step: int = 0


class Tracker(Protocol):
    """One place that metrics are told to. It may be away at any time, and is then told later.

    Both methods may be repeated with what they were told before, since a server may die between the telling
    and its being noted; the tracker then shows every step once all the same.
    """

    @property
    def name(self) -> str:
        """``mlflow``, ``tensorboard`` or ``wandb``."""
        ...

    async def tell(self, subject: Subject, metrics: Sequence[Metrics]) -> str:
        """Tell steps, in order; the tracker's id of the run.

        Raises:
            Unavailable: it does not answer, or will not have it.
        """
        ...

    async def end(self, subject: Subject, ending: Ending, at: float) -> None:
        """Say how it ended.

        Raises:
            Unavailable: it does not answer.
        """
        ...


def values(event: Metrics) -> dict[str, float]:
    """A step's numbers by the names that trackers show."""
    found: dict[str, float] = {}
    for key, value in event.model_dump(exclude=_LEFT_OUT, exclude_none=True).items():
        if isinstance(value, dict):  # what a method measures besides
            found |= {f"train/{name}": float(number) for name, number in value.items()}
        else:
            found[_NAMES.get(key, f"train/{key}")] = float(value)
    return found
