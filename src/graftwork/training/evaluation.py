"""Held-out rows: their loss, weighted by labelled tokens, and their scores."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from graftwork.training.batching import evaluation_batches
from graftwork.training.dataset import Dataset
from graftwork.training.engine import Adapter, Engine, Rows, Sums


class Held(Protocol):
    """Measures adapters, or the base model alone, on one validation set."""

    tokens: int
    """Labelled tokens of the set."""

    def measure(self, adapter: Adapter | None, tick: Callable[[], None]) -> Sums:
        """Sums over the whole set; ``tick`` is called after each batch."""
        ...


class Evaluator:
    """See ``Held``: the loss of answers."""

    def __init__(self, engine: Engine, data: Dataset) -> None:
        self._engine = engine
        self._rows = data.rows
        self._batches = evaluation_batches([len(row.tokens) for row in data.rows])
        self.tokens = data.labelled

    def measure(self, adapter: Adapter | None, tick: Callable[[], None]) -> Sums:
        """See ``Held.measure``."""
        total = Sums()
        for batch in self._batches:
            total += self._engine.evaluate(adapter, [self._rows[row] for row in batch])
            tick()
        return total


def score_rows(engine: Engine, adapter: Adapter | None, rows: Rows, tick: Callable[[], None]) -> list[float]:
    """The score of each row (``Engine.scores``), in batches of like length; ``tick`` after each."""
    found = [0.0] * len(rows)
    for batch in evaluation_batches([len(row.tokens) for row in rows]):
        for row, score in zip(batch, engine.scores(adapter, [rows[at] for at in batch]), strict=True):
            found[row] = score
        tick()
    return found
