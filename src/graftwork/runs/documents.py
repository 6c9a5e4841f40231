"""The documents of a run folder: frozen, strict, finite. ``spec.json`` is ``core.specs.RunSpec``.

Times are unix seconds of the writer's clock; tokens are counts; money is integer micro-dollars.
A NaN or an infinity is refused when a document is made, so none is ever written or read.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from graftwork.core.specs import Quantization
from graftwork.core.states import Outcome, Want

RunPhase = Literal["loading", "training", "evaluating", "saving", "done"]


class Document(BaseModel):
    """Base of all documents: immutable, finite, and an unknown field is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    def to_bytes(self) -> bytes:
        """Compact JSON."""
        return self.model_dump_json().encode()


class Control(Document):
    """``control.json``: what the control plane wants of the attempt ``fence``; it alone writes this."""

    want: Want = Want.RUN
    fence: Annotated[int, Field(ge=1)]
    """The only attempt that may go on; a trainer that is not it stops without a word."""
    lease_until: float
    """A trainer that has not seen a later value by then pauses itself: nobody is watching it."""
    deadline: float
    """The machine is paid for until then; a trainer pauses itself before."""
    max_cost: int | None = None
    """Micro-dollars this attempt's machine may cost; needs ``price_per_hour``."""
    price_per_hour: int | None = None
    """Micro-dollars an hour of the machine, as quoted."""
    billed_since: float | None = None
    """When the machine began to cost; the trainer's own start when unknown."""


class Assignment(Document):
    """A run that a trainer is given."""

    uri: str
    fence: Annotated[int, Field(ge=1)]
    """The attempt to execute; a later one is another assignment, perhaps another machine's."""


class Assignments(Document):
    """The assignment list of one machine: what its trainer trains. The control plane alone writes it.

    A run joins by being listed. A run that is listed no more is not ended by that: what is wanted of a run
    stands in its own ``control.json`` alone.
    """

    runs: tuple[Assignment, ...] = ()
    closed: bool = False
    """Nothing will be added: the trainer ends with its last run."""
    idle_s: Annotated[float, Field(ge=0)] = 60.0
    """A trainer without a run ends itself after so long."""
    deadline: float | None = None
    """The machine is paid for until then."""
    tokens_per_pass: Annotated[int, Field(ge=1)] | None = None
    """Tokens of all runs that one forward and backward pass may hold, by the memory plan; None: any."""
    park: bool = False
    """Whether optimizer states lie in main memory between their steps: the device has no room for all."""


class Heartbeat(Document):
    """``heartbeat.json``: where the attempt is now; rewritten about once a second."""

    step: int
    total_steps: int
    at: float
    phase: RunPhase
    tokens: int = 0
    """Trained tokens so far, over the unbroken curve."""
    loss: float | None = None
    tokens_per_s: float | None = None
    eta_s: float | None = None


class Metrics(Document):
    """One optimizer step. ``valid_*`` are there when the step ended with an evaluation."""

    type: Literal["metrics"] = "metrics"
    at: float
    step: int
    """Optimizer steps done, counted from 1."""
    epoch: float
    """Epochs done, as a fraction of the rows seen."""
    loss: float
    """Mean negative log-likelihood (nats) over the labelled tokens of the step's batch."""
    lr: float
    """Learning rate the step was taken with."""
    grad_norm: float
    """L2 norm of the adapter's gradient before clipping."""
    tokens: int
    """Trained tokens up to and including this step, over the unbroken curve."""
    tokens_per_s: float
    memory_mb: float
    """Peak memory so far: of the GPU's allocator, else of the process."""
    train_accuracy: float | None = None
    """Share of the batch's labelled tokens that the model ranked first."""
    valid_loss: float | None = None
    valid_accuracy: float | None = None
    full_valid_loss: float | None = None
    """The same over the whole validation set; equal to ``valid_loss`` where all of it was used."""
    extra: dict[str, float] = {}
    """What a method measures besides, under TRL's names: ``rewards/margins`` and so on."""


class Message(Document):
    """Something worth telling the owner."""

    type: Literal["message"] = "message"
    at: float
    level: Literal["info", "warn", "error"] = "info"
    message: str
    code: str | None = None


Event = Annotated[Metrics | Message, Field(discriminator="type")]
EVENTS: TypeAdapter[Metrics | Message] = TypeAdapter(Event)


class Probe(Document):
    """A row with the trainer's own word on it: checked later through the serving path."""

    tokens: list[int]
    start: int
    """Index of the first token of the answer; ``tokens[:start]`` is the prompt."""
    logprobs: list[float]
    """Of ``tokens[start:]`` given their prefixes, with the adapter, computed in fp32; nats."""
    base_logprobs: list[float]
    """The same without the adapter."""
    quantization: Quantization = "none"
    """How the trainer held the base when it took them; it is served as it was published."""


class CheckpointManifest(Document):
    """``manifest.json``, written last: a checkpoint without it does not exist."""

    step: int
    at: float
    dir: str
    """The checkpoint's folder, relative to the run folder."""
    files: dict[str, str]
    """Name relative to ``dir`` to sha256; the adapter's files and the trainer's state."""
    metrics: dict[str, float]
    tokens: int
    best: bool = False
    """Whether it has the lowest validation loss so far (or is the last, without a validation set)."""
    probes: list[Probe] = []

    def adapter_files(self) -> dict[str, str]:
        """The part of ``files`` that is a PEFT adapter."""
        return {name: sha for name, sha in self.files.items() if name in ADAPTER_FILES}


ADAPTER_FILES = ("adapter_config.json", "adapter_model.safetensors")


class RunError(Document):
    """Why an attempt failed. ``user``: the customer's to mend, a new attempt would fail the same way."""

    code: str
    message: str
    kind: Literal["user", "platform"]
    param: str | None = None
    """What of the request is to blame, if one field is: ``training_file``, ``learning_rate_multiplier`` …"""


class AdapterFiles(Document):
    """Where the result's adapter lies: ``dir`` relative to the run folder, file name to sha256."""

    dir: str
    files: dict[str, str]


class Result(Document):
    """``result.json``, the last thing an attempt writes; one without it has not ended, or was lost."""

    outcome: Outcome
    error: RunError | None = None
    reason: str | None = None
    """Why it paused: pause | lease_lapsed | deadline | max_cost | signal."""
    step: int
    total_steps: int = 0
    tokens: int
    """All tokens of the rows trained on, labelled or not, over the unbroken curve."""
    seconds: float
    """Of this attempt."""
    adapter: AdapterFiles | None = None
    best_step: int | None = None
    train_loss: float | None = None
    """Of the last step."""
    valid_loss: float | None = None
    """Of the result's adapter, when there is a validation set."""
    base_valid_loss: float | None = None
    """Of the base model alone."""
    valid_tokens: int = 0
    """Labelled tokens of the validation set."""
    extra: dict[str, float] = {}
    """What a method measures of held-out rows besides the loss: of the result's adapter behind ``eval_``, of
    the base model behind ``base_``."""
    probes: list[Probe] = []
    machine: dict[str, Any] = {}
