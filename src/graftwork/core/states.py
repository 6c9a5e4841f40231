"""States, and the one table of moves that are allowed between them."""

from __future__ import annotations

from enum import StrEnum
from itertools import pairwise

from graftwork.core.errors import Conflict


class Phase(StrEnum):
    """The fine phases of a job. OpenAI's status on the wire is derived (``wire_status``)."""

    VALIDATING = "validating"
    PLANNING = "planning"
    QUEUED = "queued"
    PROVISIONING = "provisioning"
    PREPARING = "preparing"
    TRAINING = "training"
    EVALUATING = "evaluating"
    GATING = "gating"
    REGISTERING = "registering"
    DEPLOYING = "deploying"
    DONE = "done"
    PAUSED = "paused"
    FAILED = "failed"
    CANCELLED = "cancelled"


class ExportState(StrEnum):
    """How far an export is."""

    PENDING = "pending"
    SUCCEEDED = "succeeded"
    FAILED = "failed"


_AHEAD = [
    Phase.VALIDATING,
    Phase.PLANNING,
    Phase.QUEUED,
    Phase.PROVISIONING,
    Phase.PREPARING,
    Phase.TRAINING,
    Phase.EVALUATING,
    Phase.GATING,
    Phase.REGISTERING,
    Phase.DEPLOYING,
    Phase.DONE,
]
TERMINAL = frozenset({Phase.DONE, Phase.FAILED, Phase.CANCELLED})
ON_MACHINE = frozenset({Phase.PROVISIONING, Phase.PREPARING, Phase.TRAINING})
"""Phases in which a machine may exist for the job."""


def _moves() -> dict[Phase, frozenset[Phase]]:
    table: dict[Phase, set[Phase]] = {phase: set() for phase in Phase}
    for here, there in pairwise(_AHEAD):
        table[here].add(there)
    for phase in _AHEAD[:-1]:
        table[phase] |= {Phase.FAILED, Phase.CANCELLED}
    table[Phase.PREPARING] |= {Phase.EVALUATING}  # a trainer may finish between two looks at it
    table[Phase.PROVISIONING] |= {Phase.TRAINING, Phase.EVALUATING}
    for phase in ON_MACHINE:
        table[phase] |= {Phase.QUEUED, Phase.PAUSED}  # a lost machine is replaced; a pause ends the attempt
    table[Phase.QUEUED] |= {Phase.PAUSED}
    table[Phase.PAUSED] |= {Phase.QUEUED, Phase.FAILED, Phase.CANCELLED}
    return {phase: frozenset(targets) for phase, targets in table.items()}


MOVES: dict[Phase, frozenset[Phase]] = _moves()
"""Allowed moves of a job; a move that is not here is a bug or a race, and is refused."""

_WIRE: dict[Phase, str] = {
    Phase.VALIDATING: "validating_files",
    Phase.PLANNING: "validating_files",
    Phase.QUEUED: "queued",
    Phase.PAUSED: "paused",
    Phase.DONE: "succeeded",
    Phase.FAILED: "failed",
    Phase.CANCELLED: "cancelled",
}


def check_move(here: Phase, there: Phase) -> None:
    """Raise ``Conflict`` unless a job may move from ``here`` to ``there``."""
    if there not in MOVES[here]:
        raise Conflict(f"A job cannot go from {here} to {there}.", code="illegal_move")


def wire_status(phase: Phase) -> str:
    """OpenAI's job status for a phase; everything between queued and done is ``running``."""
    return _WIRE.get(phase, "running")


class Want(StrEnum):
    """What the owner wants of a job; the reconciler makes it true."""

    RUN = "run"
    PAUSE = "pause"
    CANCEL = "cancel"


class MachineState(StrEnum):
    """A machine as we know it. ``GONE`` is written only when the provider confirms absence."""

    INTENDED = "intended"
    LAUNCHED = "launched"
    GONE = "gone"


class Observed(StrEnum):
    """A machine as its provider sees it."""

    REQUESTED = "requested"
    PROVISIONING = "provisioning"
    STARTING = "starting"
    RUNNING = "running"
    EXITED = "exited"
    ERROR = "error"
    GONE = "gone"
    UNKNOWN = "unknown"


class Outcome(StrEnum):
    """How one attempt of a trainer ended."""

    SUCCEEDED = "succeeded"
    FAILED = "failed"
    PAUSED = "paused"
    CANCELLED = "cancelled"


class PlacementState(StrEnum):
    """One set of weights on one replica."""

    PENDING = "pending"
    LOADING = "loading"
    READY = "ready"
    REMOVING = "removing"
    FAILED = "failed"


class Verdict(StrEnum):
    """What a gate says. Only ``PASS`` promotes."""

    PASS = "pass"  # noqa: S105 - a verdict, not a secret
    FAIL = "fail"
    INCONCLUSIVE = "inconclusive"


class EntryState(StrEnum):
    """A ledger entry: a reservation, a settled amount, or a released reservation."""

    OPEN = "open"
    SETTLED = "settled"
    VOID = "void"
