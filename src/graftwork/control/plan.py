"""``Job.plan``: what the phases of a job learn and hand on, in one document that only grows."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from graftwork.billing import Quote
from graftwork.core.nouns import Job, Json
from graftwork.core.specs import RunSpec, Spec, TrainingOptions


class Part(Spec):
    """A set of canonical rows, stored as a blob."""

    sha256: str
    rows: int


class Trained(Spec):
    """What came back from the machine."""

    fence: int
    weights: str
    """Digest of the adapter's files."""
    step: int
    tokens: int
    seconds: float
    train_loss: float | None
    valid_loss: float | None
    base_valid_loss: float | None
    valid_tokens: int


class Live(Spec):
    """The version that was live when the evaluation began: what the new one is measured against."""

    version_id: str
    weights: str
    generation: int


class JobPlan(Spec):
    """Everything a job's phases hand on. A field is None until its phase has been."""

    reports: dict[str, Any] = Field(default_factory=dict)
    """Data reports by ``training_file`` and ``validation_file``."""
    train: Part | None = None
    valid: Part | None = None
    held_out: bool = False
    """Whether the validation rows were held out of the training file."""
    spec: RunSpec | None = None
    estimate: dict[str, Any] | None = None
    """The planner's output: fits, memory, tokens, steps, seconds and why."""
    quote: Quote | None = None
    seconds: float = 0.0
    """Machine seconds expected."""
    memory: int = 0
    """Bytes a machine must have for it; 0 where no offer said how much it has."""
    on_gpu: bool = False
    """Whether those are bytes of a GPU."""
    trained: Trained | None = None
    placed: bool = False
    """Whether what the evaluation needs served was written down; ``live`` counts from then on."""
    live: Live | None = None
    scores: str | None = None
    """Blob of the evaluation's scores."""

    def with_(self, **changes: Any) -> Json:
        """The column's new value after some fields changed."""
        return self.model_copy(update=changes).model_dump(mode="json")


def plan_of(job: Job) -> JobPlan:
    """A job's plan as a document."""
    return JobPlan.model_validate(job.plan or {})


def options_of(job: Job) -> TrainingOptions:
    """The options the job was asked with."""
    return TrainingOptions.model_validate(job.asked["options"])
