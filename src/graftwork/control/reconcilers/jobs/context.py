"""What the phases of a job act with."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from graftwork.artifacts import Artifacts
from graftwork.compute.port import Provider
from graftwork.control.bases import Bases
from graftwork.core.clock import Clock
from graftwork.core.nouns import Endpoint, Job
from graftwork.runs.reader import RunReader
from graftwork.runs.transport import Transport, open_transport
from graftwork.serving.client import EngineClient
from graftwork.store import Store


@dataclass(frozen=True, slots=True, kw_only=True)
class Pool:
    """A provider and how much of it we use."""

    provider: Provider
    limit: int | None = None
    """Machines of ours that may live there at a time; None leaves it to the provider."""
    ends_with_us: bool = False
    """Whether its machines are stopped when the server stops (this host's are)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Seconds and counts by which jobs are watched."""

    watch: float = 1.0
    """Between two looks at a run folder."""
    lease: float = 120.0
    """A trainer that sees no renewal for so long pauses itself."""
    deadline: float = 900.0
    """A machine that is not renewed for so long is ended by its provider."""
    stall: float = 1800.0
    """A machine whose trainer shows no life for so long is not renewed any more."""
    waiting: float = 2.0
    """Before asking again for a machine, or for a placement."""
    company: int = 16
    """Runs that may share a machine; 1 gives each its own."""
    idle: float = 30.0
    """A shared machine's trainer without a run ends itself after so long."""
    patience: float = 600.0
    """A job of a project that was given less waits so long before a run of another makes room for it."""
    parting: float = 60.0
    """How long a run that is cancelled among others may show no life before it is not waited for."""
    losses: int = 2
    """Attempts lost in a row without progress that end a job."""
    evaluation_rows: int = 100
    evaluation_tries: int = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """The rooms and settings a phase needs; one for all jobs."""

    store: Store
    artifacts: Artifacts
    bases: Bases
    clock: Clock
    pools: Mapping[str, Pool]
    install: str
    runs: Path
    """Folder of all run folders."""
    trainer: tuple[str, ...]
    """Command of the trainer; ``--run`` or ``--assignments`` and a URI are appended."""
    environment: Mapping[str, str]
    """What the trainer is told besides."""
    code_version: str
    connect: Callable[[Endpoint], EngineClient]
    limits: Limits = field(default_factory=Limits)

    def uri(self, job: Job) -> str:
        """Where the job's run folder lives."""
        return (self.runs / job.id).absolute().as_uri()

    def folder(self, job: Job) -> Transport:
        """The job's run folder."""
        return open_transport(self.uri(job))

    def reader(self, job: Job) -> RunReader:
        """Reads the job's run folder."""
        return RunReader(self.folder(job))
