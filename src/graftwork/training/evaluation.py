"""Held-out loss: every validation row, weighted by labelled tokens."""

from __future__ import annotations

from collections.abc import Callable

from graftwork.training.batching import evaluation_batches
from graftwork.training.dataset import Dataset
from graftwork.training.engine import Adapter, Engine, Sums


class Evaluator:
    """Evaluates adapters, or the base model alone, on one validation set."""

    def __init__(self, engine: Engine, data: Dataset) -> None:
        self._engine = engine
        self._rows = data.rows
        self._batches = evaluation_batches(data.lengths)
        self.tokens = data.labelled
        """Labelled tokens of the set."""

    def measure(self, adapter: Adapter | None, tick: Callable[[], None]) -> Sums:
        """Sums over the whole set; ``tick`` is called after each batch."""
        total = Sums()
        for batch in self._batches:
            total += self._engine.evaluate(adapter, [self._rows[row] for row in batch])
            tick()
        return total
