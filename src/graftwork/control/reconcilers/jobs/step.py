"""What a phase hands back: one transaction's worth of changes, and when to look again."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, Literal

from graftwork.core.nouns import Json
from graftwork.core.states import Phase
from graftwork.store import Tx

Level = Literal["info", "warn", "error"]
Write = Callable[[Tx], Awaitable[Any]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Note:
    """A line for the job's log. With ``dedupe`` it is written once, however often it is said."""

    message: str
    level: Level = "info"
    type: Literal["message", "metrics"] = "message"
    data: Json | None = None
    at: float | None = None
    dedupe: str | None = None

    @property
    def plain(self) -> bool:
        """Whether it can be the line of a move: nothing but words."""
        return self.type == "message" and self.at is None and self.dedupe is None and self.data is None


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """The outcome of one act of a phase: written in one guarded transaction, or not at all."""

    move: Phase | None = None
    changes: Json = field(default_factory=dict)
    notes: tuple[Note, ...] = ()
    writes: tuple[Write, ...] = ()
    """Further rows of the same transaction; raising in one undoes all."""
    delay: float = 0.0
    """Seconds until the next look; 0 goes on at once."""


class Instead(Exception):
    """Raised by a write: undo this transaction, and take this other step instead."""

    def __init__(self, step: Step) -> None:
        super().__init__()
        self.step = step
