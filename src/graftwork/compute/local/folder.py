"""The folder of one local machine: all its state, readable by any control plane at any time.

    machine.json      what was ordered, written before anything is started (holds the environment: mode 0600)
    deadline          unix time; rewritten to move the deadline
    lock              held (flock) by the supervisor while it lives: there is never a second one
    supervisor.json   who supervises
    process.json      the command's process group; written *before* the command may run
    log.txt           stdout and stderr
    terminate         marker: the machine is to end; once it is gone, its name is used up
    exit.json         written last, when no process is left

Each file is written whole. Standard library only: the supervisor imports this.
"""

from __future__ import annotations

import json
import os
import threading
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar


@dataclass(frozen=True, slots=True)
class Order:
    """``machine.json``: what was ordered."""

    id: str
    name: str
    command: list[str]
    env: dict[str, str]
    created_at: float
    price_per_hour: int
    grace: float


@dataclass(frozen=True, slots=True)
class SupervisorRecord:
    """``supervisor.json``."""

    pid: int
    birth: str


@dataclass(frozen=True, slots=True)
class ProcessRecord:
    """``process.json``: the command; ``pid`` is also the number of its process group."""

    pid: int
    session: int
    started_at: float


@dataclass(frozen=True, slots=True)
class ExitRecord:
    """``exit.json``: how the machine ended."""

    reason: str
    """exited | deadline | terminated | not_started."""
    exit_code: int | None
    """Of the command; negative is the signal that ended it."""
    ended_at: float
    message: str = ""


Record = Order | SupervisorRecord | ProcessRecord | ExitRecord
_R = TypeVar("_R", Order, SupervisorRecord, ProcessRecord, ExitRecord)

FILES: dict[type[Record], str] = {
    Order: "machine.json",
    SupervisorRecord: "supervisor.json",
    ProcessRecord: "process.json",
    ExitRecord: "exit.json",
}


def write_whole(path: Path, text: str) -> None:
    """Write a file so that a reader, or a crash, sees all of it or nothing; only the owner may read it."""
    # The thread's number keeps two writers apart; what a crash left under it is ours to remove.
    temporary = path.with_name(f".{path.name}.{threading.get_native_id()}")
    temporary.unlink(missing_ok=True)
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


class MachineFolder:
    """Typed access to the files of one machine."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.lock = path / "lock"
        self.log = path / "log.txt"
        self.work = path / "work"

    @property
    def name(self) -> str:
        """The machine's name."""
        return self.path.name

    def create(self) -> None:
        """Make the folder, if it is not there."""
        self.path.mkdir(mode=0o700, exist_ok=True)
        self.work.mkdir(mode=0o700, exist_ok=True)

    def read(self, kind: type[_R]) -> _R | None:
        """The record of this kind; None if it was never written."""
        try:
            fields: dict[str, Any] = json.loads((self.path / FILES[kind]).read_text())
        except FileNotFoundError:
            return None
        return kind(**fields)

    def write(self, record: Record) -> None:
        """Write a record into its file, whole."""
        write_whole(self.path / FILES[type(record)], json.dumps(asdict(record)))

    @property
    def deadline(self) -> float | None:
        """Unix time after which the machine must not live."""
        try:
            return float((self.path / "deadline").read_text())
        except FileNotFoundError:
            return None

    @deadline.setter
    def deadline(self, at: float) -> None:
        write_whole(self.path / "deadline", repr(at))

    @property
    def to_terminate(self) -> bool:
        """Whether somebody asked for the machine's end."""
        return (self.path / "terminate").exists()

    def mark_terminate(self) -> None:
        """Ask for the machine's end, for good. Idempotent."""
        (self.path / "terminate").touch(mode=0o600)
