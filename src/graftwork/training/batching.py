"""Which rows make up which step: a pure function of lengths, sizes, seed and epoch, so nothing need be saved.

Rows of like length share a batch (little padding), yet every epoch draws new batches in a new order.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from itertools import pairwise

from graftwork.core.specs import Schedule

POOL = 32
"""Batches whose rows are sorted by length together; between pools, rows are shuffled freely."""
JITTER = 0.1
"""Lengths count as up to this share more or less, so that even a small set has new batches every epoch."""


def epoch_batches(lengths: Sequence[int], batch_size: int, seed: int, epoch: int) -> list[list[int]]:
    """Row indices of each step of an epoch: every row once, at most ``batch_size`` a step.

    Shuffled rows are cut into pools of ``POOL`` batches, each pool is sorted by roughly the length and cut
    into batches, and the batches are shuffled.
    """
    random_numbers = random.Random(f"order/{seed}/{epoch}")
    order = list(range(len(lengths)))
    random_numbers.shuffle(order)
    batches: list[list[int]] = []
    for start in range(0, len(order), POOL * batch_size):
        pool = order[start : start + POOL * batch_size]
        pool.sort(key=lambda row: lengths[row] * random_numbers.uniform(1 - JITTER, 1 + JITTER))
        batches += [pool[at : at + batch_size] for at in range(0, len(pool), batch_size)]
    random_numbers.shuffle(batches)
    return batches


def micro_batches(batch: Sequence[int], accumulation: int) -> list[list[int]]:
    """A step's rows in at most ``accumulation`` consecutive parts of like size, none empty."""
    count = min(accumulation, len(batch))
    cuts = [len(batch) * part // count for part in range(count + 1)]
    return [list(batch[start:end]) for start, end in pairwise(cuts)]


def evaluation_batches(lengths: Sequence[int], rows: int = 16, tokens: int = 4096) -> list[list[int]]:
    """All rows, longest first, in batches of at most ``rows`` rows and ``tokens`` padded tokens.

    A row longer than ``tokens`` is a batch of its own.
    """
    order = sorted(range(len(lengths)), key=lambda row: -lengths[row])
    batches: list[list[int]] = []
    for row in order:
        last = batches[-1] if batches else None
        if last and len(last) < rows and lengths[last[0]] * (len(last) + 1) <= tokens:
            last.append(row)
        else:
            batches.append([row])
    return batches


class Course:
    """The steps of a run, numbered from 0, over all its epochs.

    Args:
        lengths: tokens of each row.
        schedule: epochs, batch size, accumulation.
        seed: decides the order.
    """

    def __init__(self, lengths: Sequence[int], schedule: Schedule, seed: int) -> None:
        self._lengths, self._schedule, self._seed = lengths, schedule, seed
        self.steps_per_epoch = -(-len(lengths) // schedule.batch_size)
        """Optimizer steps of one epoch; one of its batches may be smaller."""
        self.total_steps = self.steps_per_epoch * schedule.n_epochs
        self._epoch: tuple[int, list[list[int]]] = (-1, [])

    def rows(self, step: int) -> list[list[int]]:
        """Row indices of the step's micro-batches."""
        epoch, within = divmod(step, self.steps_per_epoch)
        return micro_batches(self.epoch(epoch)[within], self._schedule.accumulation)

    def epoch(self, epoch: int) -> list[list[int]]:
        """Row indices of each step of an epoch."""
        if self._epoch[0] != epoch:
            batches = epoch_batches(self._lengths, self._schedule.batch_size, self._seed, epoch)
            self._epoch = (epoch, batches)
        return self._epoch[1]

    def tokens(self, step: int) -> int:
        """Tokens of the step's rows, labelled or not, without padding."""
        return sum(self._lengths[row] for part in self.rows(step) for row in part)

    def dropout_seed(self, step: int) -> int:
        """Seed of the step's dropout: of the run and the step alone, so that a resumed run repeats it."""
        return random.Random(f"dropout/{self._seed}/{step}").getrandbits(63)
