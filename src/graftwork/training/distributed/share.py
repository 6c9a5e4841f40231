"""A step's rows, dealt to the ranks: a pure function, so that every rank knows what all others do.

Collective operations are matched by their order. Every rank must therefore run the same number of
micro-batches, each with something to learn from, even where there are fewer examples than ranks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch

from graftwork.data.rendering import Encoded
from graftwork.training.engine import ANSWERS, Objective, Rows, Slopes, Work


@dataclass(frozen=True, slots=True)
class Share:
    """One rank's part of a work.

    Attributes:
        batches: its micro-batches, as many as every other rank's.
        examples: index in the work of each of its examples, in order.
        counts: False where the rank got no example of its own and repeats another's, to keep in step.
    """

    batches: list[Rows]
    examples: list[int]
    counts: bool = True


def deal(batches: Sequence[Rows], ranks: int, rows_per_example: int = 1) -> list[Share]:
    """Examples of all micro-batches to ``ranks`` ranks: longest first, to and fro, so that tokens are even.

    Each rank runs at most ``len(batches)`` micro-batches, so no more rows are held at once than asked for.
    """
    rows = [row for batch in batches for row in batch]
    examples = [rows[at : at + rows_per_example] for at in range(0, len(rows), rows_per_example)]
    order = sorted(range(len(examples)), key=lambda index: -sum(len(row.tokens) for row in examples[index]))
    hands: list[list[int]] = [[] for _ in range(ranks)]
    for place, index in enumerate(order):
        lap, seat = divmod(place, ranks)
        hands[seat if lap % 2 == 0 else ranks - 1 - seat].append(index)
    parts = max(1, min(len(batches), min(len(hand) for hand in hands)))
    return [_share(hand or order[-1:], examples, parts, bool(hand)) for hand in hands]


def _share(hand: list[int], examples: list[list[Encoded]], parts: int, counts: bool) -> Share:
    cuts = [len(hand) * part // parts for part in range(parts + 1)]
    batches: list[Rows] = [
        [row for index in hand[start:end] for row in examples[index]] for start, end in pairwise(cuts)
    ]
    return Share(batches, hand, counts)


@dataclass(frozen=True, slots=True)
class Dealt:
    """An objective as one rank sees it: its examples stand elsewhere in the work than in its hand."""

    whole: Objective
    examples: Sequence[int]

    @property
    def rows_per_example(self) -> int:
        """As the whole's."""
        return self.whole.rows_per_example

    def slopes(self, scores: torch.Tensor, rows: Rows, first: int) -> Slopes:
        """The whole's, example by example, each at its own place; see ``Objective.slopes``."""
        each, found = self.rows_per_example, []
        for at in range(0, len(rows), each):
            place = self.examples[(first + at) // each] * each
            found.append(self.whole.slopes(scores[at : at + each], rows[at : at + each], place))
        metrics: dict[str, torch.Tensor] = {}
        for slopes in found:
            for name, value in slopes.metrics.items():
                metrics[name] = metrics[name] + value if name in metrics else value
        return Slopes(
            torch.stack([slopes.loss for slopes in found]).sum(),
            torch.cat([slopes.per_row for slopes in found]),
            metrics,
        )


def hand_of(work: Work, rank: int, ranks: int) -> tuple[Work, Share]:
    """The part of a work that ``rank`` does; its dropout and noise are its own."""
    share = deal(work.batches, ranks, work.objective.rows_per_example)[rank]
    objective = work.objective
    # The engine knows ANSWERS by identity: it needs no scores.
    if objective is not ANSWERS:
        objective = Dealt(objective, share.examples)
    seed = (work.seed + 0x9E3779B97F4A7C15 * rank) % (1 << 63)
    return Work(work.adapter, share.batches, seed, objective, work.noise), share
