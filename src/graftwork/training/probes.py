"""A few rows with the trainer's own log-probabilities: the serving path must agree with them later."""

from __future__ import annotations

from collections.abc import Sequence

from graftwork.core.specs import Quantization
from graftwork.data.rendering import Encoded
from graftwork.runs.documents import Probe
from graftwork.training.engine import Adapter, Engine

COUNT, LONGEST, ANSWER = 8, 512, 32


def choose(rows: Sequence[Encoded]) -> list[tuple[list[int], int]]:
    """``COUNT`` rows, evenly spaced, short ones preferred: (tokens, index of the first labelled token).

    Only the first ``ANSWER`` tokens of an answer are kept: enough to tell adapters apart, cheap to compare.
    """
    starts = [(row.tokens, row.labels.index(True, 1)) for row in rows]
    fitting = [(tokens[: start + ANSWER], start) for tokens, start in starts if start + ANSWER <= LONGEST]
    pool = fitting or [(tokens[: start + ANSWER], start) for tokens, start in starts]
    count = min(COUNT, len(pool))
    return [pool[len(pool) * index // count] for index in range(count)]


class Prober:
    """The chosen rows, with the base model's log-probabilities taken once; ``quantization`` is the base's."""

    def __init__(self, engine: Engine, rows: Sequence[Encoded], quantization: Quantization = "none") -> None:
        self._engine = engine
        self._quantization: Quantization = quantization
        self._rows = [(tokens, start, engine.logprobs(None, tokens, start)) for tokens, start in choose(rows)]

    def take(self, adapter: Adapter) -> list[Probe]:
        """The probes with ``adapter`` as it is now."""
        return [
            Probe(
                tokens=tokens,
                start=start,
                logprobs=self._engine.logprobs(adapter, tokens, start),
                base_logprobs=base,
                quantization=self._quantization,
            )
            for tokens, start, base in self._rows
        ]
