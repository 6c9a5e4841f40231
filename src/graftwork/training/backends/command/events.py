"""What our callback inside a tool says (``runners/graft_events.py``), read as it is written."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from graftwork.core.errors import TrainingError


class Told(BaseModel):
    """One line.

    ``step``: an optimizer step was taken. ``saved``: a checkpoint of the tool's lies complete in ``path``.
    ``end``: training is over, at ``step`` (fewer than planned when it was asked to stop).
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    event: Literal["step", "saved", "end"]
    step: int
    epoch: float = 0.0
    loss: float | None = None
    grad_norm: float | None = None
    lr: float | None = None
    memory_mb: float = 0.0
    path: str = ""


class Lines:
    """New whole lines of a growing file."""

    def __init__(self, path: Path) -> None:
        self._path, self._at, self._rest = path, 0, b""

    def new(self) -> list[bytes]:
        """Those that were completed since the last call."""
        try:
            with self._path.open("rb") as file:
                file.seek(self._at)
                data = file.read()
        except FileNotFoundError:
            return []
        self._at += len(data)
        *lines, self._rest = (self._rest + data).split(b"\n")
        return lines


def parse(line: bytes) -> Told:
    """A line as what it says.

    Raises:
        TrainingError: ``trainer_failed``, the runner and we do not speak the same language.
    """
    try:
        return Told.model_validate_json(line)
    except ValidationError as error:
        raise TrainingError(
            f"The trainer's callback wrote something else than events: {line[:200]!r}.",
            code="trainer_failed",
        ) from error
