"""The domain's nouns as frozen values: what repositories return and services speak of.

Times are unix seconds (float); money is integer micro-dollars; JSON columns are plain dicts.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from graftwork.core.states import (
    EntryState,
    ExportState,
    MachineState,
    Outcome,
    Phase,
    PlacementState,
    Verdict,
    Want,
)

Json = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Organization:
    """A tenant."""

    id: str
    name: str
    created_at: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Project:
    """A tenant's sub-account: keys, data, adapters, budgets and bills hang on it."""

    id: str
    organization_id: str
    name: str
    created_at: float
    budget: int | None = None
    """Spending cap in micro-dollars over the project's life; None is no cap."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Keeping:
    """What a project opted to have kept of its requests: nothing, unless it says otherwise."""

    project_id: str
    mode: str = "off"
    """``off``: nothing; ``asked``: what is sent with ``store: true``; ``all``: all but ``store: false``."""
    days: int = 30
    """How long a request is kept."""
    redact: bool = True
    """Whether mail addresses, telephone and card numbers and keys are blotted out before it is kept."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptRequest:
    """A chat request with its answer, kept because its project opted for it."""

    id: str
    """As the answer's: ``chatcmpl-…``."""
    project_id: str
    model: str
    """As the caller sent it."""
    base: str
    adapter: str | None
    version: str | None
    """``support@3``; None for a base model."""
    name: str
    """What answered: the version's ``ft:…`` name, or the base model's."""
    metadata: dict[str, str] | None
    bytes: int
    body: bytes = field(repr=False)
    """zlib-compressed JSON: ``{"request": {…}, "answer": {…}}``."""
    created_at: float
    expires_at: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiKey:
    """A key, known by the hash of its secret only."""

    id: str
    project_id: str
    name: str
    lookup: str
    """The public part of the key, by which it is found."""
    digest: str
    """HMAC-SHA256 of the secret part under the install's pepper."""
    created_at: float
    expires_at: float | None = None
    revoked_at: float | None = None
    last_used_at: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredFile:
    """An uploaded or produced file; the bytes live in artifacts under ``sha256``."""

    id: str
    project_id: str
    filename: str
    purpose: str
    bytes: int
    sha256: str
    created_at: float
    expires_at: float | None = None
    deleted_at: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One request to train one adapter."""

    id: str
    project_id: str
    phase: Phase
    want: Want
    base: str
    """Name of the base model, as the customer sent it."""
    suffix: str | None
    seed: int
    training_file: str
    validation_file: str | None
    asked: Json
    """The customer's hyperparameters and options (``Hyperparameters``, ``TrainingOptions``)."""
    metadata: dict[str, str] | None
    integrations: list[Json] | None
    created_at: float
    plan: Json | None = None
    """The planner's output: run spec, estimates, data report, quote."""
    error: Json | None = None
    """``{code, message, param}`` and our ``findings``, once failed."""
    fence: int = 0
    """Number of the newest attempt."""
    losses: int = 0
    """Attempts lost in a row without progress."""
    progress: int = 0
    """Highest training step seen, over all attempts."""
    started_at: float | None = None
    finished_at: float | None = None
    estimated_finish: float | None = None
    trained_tokens: int | None = None
    fine_tuned_model: str | None = None
    version_id: str | None = None
    result_files: tuple[str, ...] = ()
    next_at: float = 0.0
    """Not looked at by the reconciler before this time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sweep:
    """A search over hyperparameters: jobs that begin together, of which the best goes to the end."""

    id: str
    project_id: str
    state: str
    """running | succeeded | failed | cancelled."""
    want: Want
    request: Json
    """What every trial is asked for, without what is searched."""
    trials: list[Json]
    """``{number, rank, rate, epochs, job, state, losses}``; state: in | stopped | failed | best."""
    created_at: float
    rung: int = 0
    """Rungs that are decided."""
    best: str | None = None
    """Job of the trial that went to the end."""
    message: str | None = None
    """Why it failed."""
    finished_at: float | None = None
    next_at: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class JobEvent:
    """A line of a job's log, as OpenAI lists them."""

    id: str
    job_id: str
    seq: int
    created_at: float
    level: str
    type: str
    message: str
    data: Json | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One attempt to execute a job."""

    job_id: str
    fence: int
    uri: str
    machine: str
    created_at: float
    cursor: int = 0
    """Number of the last event file ingested."""
    outcome: Outcome | None = None
    ended_at: float | None = None
    off_at: float | None = None
    """When it left its machine, which may go on with others; None while aboard (or the machine gone)."""
    bumped: str | None = None
    """Why the platform wants it off its machine for now, though its owner wants it to run."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """One compute instance and the intent that made it, for the attempt ``fence`` of ``job_id``.

    A shared one trains other runs of the same base model too: all rows of ``runs`` that name it.
    """

    name: str
    job_id: str
    fence: int
    provider: str
    state: MachineState
    price_per_hour: int
    """Micro-dollars, from the stored quote."""
    deadline: float
    created_at: float
    launched_at: float | None = None
    gone_at: float | None = None
    shared: bool = False
    """Whether its trainer reads an assignment list, so that other runs may come aboard."""
    closed_at: float | None = None
    """Since when nobody may come aboard any more: its last run has left."""
    memory: int = 0
    """Bytes that training may fill there; 0 where its offer did not say."""
    cores: int = 1
    gpus: int = 0
    gpu: str | None = None
    """The GPU's model, as its provider names it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """A resumable state of a run whose adapter part is callable as a model."""

    id: str
    job_id: str
    fence: int
    step: int
    created_at: float
    metrics: Json
    weights: str | None = None
    """Digest of the adapter's files in artifacts, once copied there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Weights:
    """A content-addressed set of adapter files: what an engine loads, named by its digest."""

    digest: str
    project_id: str
    base: str
    files: dict[str, str]
    """File name to sha256 of its blob."""
    probes: list[Json]
    """Token rows with the trainer's log-probabilities, for the effect probe and the agreement check."""
    created_at: float
    rank: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Adapter:
    """A named line of LoRA weights belonging to a project."""

    id: str
    project_id: str
    name: str
    base: str
    created_at: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Version:
    """One immutable adapter; ``id`` is the sha256 of the canonical JSON of ``manifest``."""

    id: str
    project_id: str
    adapter_id: str
    number: int
    job_id: str
    weights: str
    model: str
    """The ``ft:…`` name."""
    manifest: Json
    """Files with sha256, and the lineage receipt."""
    verdict: Verdict
    created_at: float
    deleted_at: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Alias:
    """A movable name for a version; each move raises ``generation`` by one."""

    adapter_id: str
    name: str
    version_id: str
    generation: int
    updated_at: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """Measured scores of new weights, of the base, and of the version then live."""

    id: str
    project_id: str
    job_id: str
    weights: str
    verdict: Verdict
    report: Json
    created_at: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Export:
    """A version's files in another format, wanted or made; or on their way to the Hub."""

    id: str
    project_id: str
    version_id: str
    format: str
    quant: str
    with_base: bool
    """Whether the base model's file goes with it (lora-gguf)."""
    repository: str | None
    """Where on the Hub it is pushed to; None for one that is downloaded."""
    private: bool
    state: ExportState
    created_at: float
    files: Json | None = None
    """By path: ``{"sha256", "bytes"}``."""
    url: str | None = None
    """Where the Hub shows it."""
    error: Json | None = None
    """``{"code", "message"}``."""
    finished_at: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Mirror:
    """How far a job's metrics were told to a tracker."""

    id: str
    job_id: str
    tracker: str
    created_at: float
    fence: int = 0
    """The attempt being told; 0 before the first."""
    cursor: int = 0
    """Event files of that attempt that were told whole."""
    step: int = 0
    """The highest step told: a resumed attempt tells none twice."""
    remote: str | None = None
    """The tracker's own id of the run."""
    done: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """Desired state for serving one base model."""

    id: str
    base: str
    engine: str
    created_at: float
    state: str = "starting"
    """starting | ready | failed."""
    url: str | None = None
    token: str | None = None
    generation: int = 0
    """Raised at every (re)start of the engine; placements of an older one must be loaded again."""
    message: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """One set of weights on one endpoint."""

    id: str
    endpoint_id: str
    project_id: str
    weights: str
    state: PlacementState
    generation: int
    created_at: float
    wanted: bool = True
    reason: str | None = None
    probe: Json | None = None
    """What the effect probe and the agreement check measured."""
    ready_at: float | None = None
    next_at: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class LedgerEntry:
    """One append-only money or usage record, unique by ``key``."""

    key: str
    project_id: str
    kind: str
    """training_tokens | machine_seconds | inference."""
    state: EntryState
    amount: int
    """Micro-dollars: reserved while open, owed once settled, 0 when void."""
    quantity: Json
    """Counts, e.g. ``{"trained_tokens": 123}`` or ``{"prompt_tokens": …, "completion_tokens": …}``."""
    price_version: str
    refs: Json
    """What it was for: job, model, version, machine, request."""
    created_at: float
    settled_at: float | None = None
