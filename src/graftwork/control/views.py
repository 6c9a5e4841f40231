"""What services return where one noun is not enough: frozen, plain, ready to be written on a wire.

Times are unix seconds, money integer micro-dollars.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from graftwork.core.nouns import (
    Adapter,
    Alias,
    ApiKey,
    Checkpoint,
    Evaluation,
    Job,
    Json,
    Machine,
    Placement,
    Version,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How far the training of a job is."""

    step: int
    total_steps: int | None
    loss: float | None
    """Training loss of the newest step reported."""
    losses: tuple[float, ...]
    """Training losses, oldest first, for a sparkline; empty in listings."""
    valid_loss: float | None
    tokens_per_s: float | None
    eta_seconds: float | None
    """Seconds until training ends at the present pace; None when not training."""
    trained_tokens: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class JobView:
    """A job with what its owner wants to know about it."""

    job: Job
    organization: str
    """The organization's id."""
    status: str
    """OpenAI's status on the wire; ``cancelled`` from the moment a cancel is accepted."""
    hyperparameters: Json
    """``n_epochs``, ``batch_size``, ``learning_rate_multiplier``, for DPO ``beta``: as planned, or as asked
    before the plan."""
    adapter: str
    """Name of the adapter this job trains a version of."""
    progress: Progress
    evaluation: Evaluation | None
    """Scores, verdict and reasons of the gate; None before it (and in listings)."""
    version: Version | None
    """None until registered (and in listings)."""
    machine: Machine | None
    """The newest attempt's machine; None before one is wanted (and in listings)."""
    cost: int
    """Micro-dollars owed for the job so far: settled tokens and machine seconds (0 in listings)."""
    reserved: int
    """Micro-dollars held for what is still running (0 in listings)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckpointView:
    """A checkpoint and the model name under which it is called."""

    checkpoint: Checkpoint
    model: str
    callable: bool
    """Whether its weights are stored, so that the name can be served."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VersionView:
    """A version, its short name, who points at it and where it is served."""

    version: Version
    name: str
    """``support@3``."""
    aliases: tuple[str, ...]
    placement: Placement | None
    evaluation: Evaluation | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Move:
    """One move of an alias, for its history."""

    alias: str
    from_version: int | None
    """Number of the version it pointed at before; None at its first move."""
    to_version: int
    generation: int
    actor: str
    reason: str
    at: float


@dataclass(frozen=True, slots=True, kw_only=True)
class AdapterView:
    """An adapter with its versions (newest first), aliases and their history (newest first)."""

    adapter: Adapter
    versions: tuple[VersionView, ...]
    aliases: tuple[Alias, ...]
    moves: tuple[Move, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyCreated:
    """A fresh API key; ``text`` is shown this once and not kept."""

    key: ApiKey
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelView:
    """One name that may be sent as ``model``."""

    name: str
    kind: Literal["base", "version", "checkpoint"]
    created_at: float
    owner: str
    """``graftwork`` for base models, the organization's id for the project's own."""
    ready: bool
    """Whether a request for it would be answered now."""
    reason: str | None
    """Why it is not ready, where that is known."""
    version: str | None = None
    """``support@3`` for a version."""
