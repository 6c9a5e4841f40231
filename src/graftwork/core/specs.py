"""Specifications that cross processes: frozen, strict, free of torch.

``RunSpec`` is what a trainer reads (``spec.json``); ``Hyperparameters`` is what a customer asked for,
``Schedule`` what the planner made of it.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

Auto = Literal["auto"]
Method = Literal["sft", "dpo", "orpo", "kto", "cpt"]
"""Supervised, three ways to learn from preferences, and continued pre-training (loss on every token)."""
TrainerName = Literal["native", "trl", "unsloth", "axolotl", "llamafactory", "nemo", "neuron"]
Quantization = Literal["none", "nf4"]
"""How the frozen base is held: as it is, or in 4 bits (QLoRA, Dettmers et al. 2023, arXiv:2305.14314)."""


class Spec(BaseModel):
    """Base of all specs: immutable, and an unknown field is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class BaseRef(Spec):
    """A frozen open-weight checkpoint, pinned."""

    name: str
    """The catalogue's name, what a customer sends as ``model``."""
    repository: str
    """Hub repository, or the absolute path of a local folder; ``seedling`` for the built-in one."""
    revision: str
    """Commit of the repository, or a hash of the local folder's files."""


class DataRef(Spec):
    """One data file of a run, by content."""

    path: str
    sha256: str
    rows: int


class Hyperparameters(Spec):
    """What a customer may ask for; ``auto`` lets the planner choose (OpenAI's ranges)."""

    n_epochs: Annotated[int, Field(ge=1, le=50)] | Auto = "auto"
    batch_size: Annotated[int, Field(ge=1, le=256)] | Auto = "auto"
    learning_rate_multiplier: Annotated[float, Field(gt=0)] | Auto = "auto"


class LoraSpec(Spec):
    """The adapter's shape. ``targets`` is ``all-linear`` or names of linear modules."""

    rank: Annotated[int, Field(ge=1, le=512)] = 16
    alpha: Annotated[float, Field(gt=0)] = 32.0
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    targets: Literal["all-linear"] | tuple[str, ...] = "all-linear"
    rslora: bool = False
    dora: bool = False
    """Weight-decomposed LoRA (Liu et al. 2024, arXiv:2402.09353); trains alone, never in company."""
    expert_rank: Annotated[int, Field(ge=1, le=512)] | None = None
    """Rank on each routed expert of a mixture; None: ``rank`` divided by the active experts, at least 1."""


class PreferenceOptions(Spec):
    """What the preference methods may be told."""

    beta: Annotated[float, Field(gt=0)] = 0.1
    """DPO and KTO: how strongly the policy is held to the reference. ORPO: weight of the odds ratio."""
    label_smoothing: Annotated[float, Field(ge=0, lt=0.5)] = 0.0
    """DPO: assumed share of swapped labels (conservative DPO)."""
    desirable_weight: Annotated[float, Field(gt=0)] = 1.0
    undesirable_weight: Annotated[float, Field(gt=0)] = 1.0


class TrainingOptions(Spec):
    """Graftwork's own knobs, sent in ``extra_body={"graftwork": {...}}`` of a job."""

    lora: LoraSpec = LoraSpec()
    warmup_ratio: Annotated[float, Field(ge=0, le=1)] = 0.05
    decay: Literal["cosine", "linear", "constant"] = "cosine"
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    max_grad_norm: Annotated[float, Field(gt=0)] = 1.0
    accumulation: Annotated[int, Field(ge=1)] = 1
    max_length: Annotated[int, Field(ge=8)] | None = None
    eval_every: Annotated[int, Field(ge=1)] | Auto = "auto"
    checkpoint_every: Annotated[int, Field(ge=1)] | Auto = "auto"
    early_stopping: Annotated[int, Field(ge=1)] | None = None
    """Stop after this many evaluations in a row without a better loss; None never stops early."""
    holdout: Annotated[float, Field(ge=0, lt=0.5)] = 0.1
    """Share of the training rows held out for the gate when no validation file is given."""
    max_cost: str | None = None
    """Cap in dollars for this job, e.g. ``"5"``: a job that would pass it is refused."""
    promote: bool = True
    """Move the adapter's default alias when the gate passes."""
    method: Method | None = None
    """For what OpenAI's ``method`` has no name for; None: what ``method`` of the job says."""
    preference: PreferenceOptions = PreferenceOptions()
    trainer: TrainerName | Auto = "auto"
    quantization: Quantization | Auto = "auto"
    lora_plus: Annotated[float, Field(ge=1)] | None = None
    """Learning rate of B over that of A (LoRA+, Hayou et al. 2024, arXiv:2402.12354); None: the same."""
    neftune_alpha: Annotated[float, Field(gt=0)] | None = None
    """Noise on the embeddings (NEFTune, Jain et al. 2023, arXiv:2310.05914); None: off."""


class Schedule(Spec):
    """The planner's numbers: nothing automatic is left, and each choice is explained."""

    n_epochs: int
    batch_size: int
    """Rows per optimizer step."""
    accumulation: int
    """Micro-batches a step is split into; the gradient is that of the whole batch."""
    learning_rate_multiplier: float
    learning_rate: float
    """Peak learning rate: the model's LoRA rate times the multiplier."""
    warmup_ratio: float
    decay: Literal["cosine", "linear", "constant"]
    weight_decay: float
    max_grad_norm: float
    max_length: int
    eval_every: int
    checkpoint_every: int
    early_stopping: int | None
    total_steps: int
    lora_plus: float | None = None
    neftune_alpha: float | None = None
    recompute: bool = False
    """Whether activations are computed again in the backward pass: held, they would not fit."""
    explained: dict[str, str] = {}
    """Field name to one sentence: why this value."""


class StartRef(Spec):
    """Adapter weights a run begins with instead of fresh ones, lying in its own folder."""

    model: str
    """The version or checkpoint they came from."""
    files: dict[str, str]
    """Relative path under ``start/`` of the run folder to sha256."""


class RunSpec(Spec):
    """What to train: everything a trainer needs, written once as ``spec.json``."""

    format: Literal[1] = 1
    job_id: str
    base: BaseRef
    method: Method = "sft"
    preference: PreferenceOptions | None = None
    trainer: TrainerName = "native"
    quantization: Quantization = "none"
    start: StartRef | None = None
    train: DataRef
    valid: DataRef | None
    lora: LoraSpec
    schedule: Schedule
    seed: int
    code_version: str
