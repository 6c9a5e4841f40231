"""Is a difference more than chance? Pure Python, seeded, the same answer on every machine.

All tests are paired: both models saw the same held-out rows.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

RESAMPLES = 2000
_NORMAL = NormalDist()


@dataclass(frozen=True, slots=True)
class Interval:
    """An estimate with its confidence bounds; each bound is one-sided at ``confidence``."""

    estimate: float
    low: float
    high: float
    confidence: float


def loss_difference(
    new: Sequence[float],
    old: Sequence[float],
    tokens: Sequence[int],
    *,
    confidence: float = 0.95,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Interval:
    """Token-weighted loss of ``new`` minus that of ``old``, in nats a token, by a paired bootstrap of rows.

    Rows are drawn with replacement, each with both losses and its tokens (the tokens of a row are not
    independent). The bounds are *expanded* percentiles: plain ones are too narrow for few rows (Hesterberg
    2015, "What Teachers Should Know About the Bootstrap", section 3.3).

    Args:
        new: summed loss of each row under the one model.
        old: the same under the other.
        tokens: number of tokens each sum is over.
        confidence: of each bound alone; ``high < 0`` says with this confidence that ``new`` is better.
        resamples: number of bootstrap samples.
        seed: makes the result reproducible.

    Raises:
        ValueError: lengths differ, fewer than two rows, or no tokens.
    """
    if not len(new) == len(old) == len(tokens):
        raise ValueError("The rows of both models must be the same.")
    if len(new) < 2 or sum(tokens) <= 0:
        raise ValueError("A loss difference needs two rows and some tokens.")
    rows = len(new)
    differences = [a - b for a, b in zip(new, old, strict=True)]
    rng = random.Random(seed)
    means: list[float] = []
    while len(means) < resamples:
        drawn = rng.choices(range(rows), k=rows)
        weight = sum(map(tokens.__getitem__, drawn))
        if weight:  # a sample of rows without any token says nothing
            means.append(sum(map(differences.__getitem__, drawn)) / weight)
    means.sort()
    tail = expanded_tail(confidence, rows)
    estimate = math.fsum(differences) / sum(tokens)
    return Interval(estimate, quantile(means, tail), quantile(means, 1 - tail), confidence)


def expanded_tail(confidence: float, rows: int) -> float:
    """The tail of the bootstrap distribution to cut, so that ``rows`` values give ``confidence``.

    The normal tail beyond ``sqrt(n/(n-1))`` times Student's t: undoes the bootstrap's too small variance,
    and its ignorance that the variance is itself estimated.
    """
    return _NORMAL.cdf(-math.sqrt(rows / (rows - 1)) * student_t(confidence, rows - 1))


def student_t(probability: float, freedom: int) -> float:
    """Quantile of Student's t distribution.

    Exact for 1 and 2 degrees of freedom; Cornish-Fisher expansion (Abramowitz and Stegun 26.7.5) above,
    right to 1 % from 3 degrees on at the usual levels.
    """
    if freedom == 1:
        return math.tan(math.pi * (probability - 0.5))
    if freedom == 2:
        return (2 * probability - 1) / math.sqrt(2 * probability * (1 - probability))
    z, v = _NORMAL.inv_cdf(probability), float(freedom)
    return (
        z
        + (z**3 + z) / (4 * v)
        + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * v**2)
        + (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / (384 * v**3)
        + (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / (92160 * v**4)
    )


def quantile(ordered: Sequence[float], share: float) -> float:
    """The value below which ``share`` of the sorted values lie, linear between neighbours."""
    place = share * (len(ordered) - 1)
    below = math.floor(place)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (ordered[above] - ordered[below]) * (place - below)


@dataclass(frozen=True, slots=True)
class Discordance:
    """How two models differ on rows that are right or wrong, and how likely by chance (McNemar, exact)."""

    gained: int
    """Rows right in the new model alone."""
    lost: int
    """Rows right in the old model alone."""
    p_worse: float
    """Chance of so many losses, or more, if neither model were better."""
    p_differs: float
    """The same for a difference in any direction (two-sided)."""


def mcnemar(new: Sequence[bool], old: Sequence[bool]) -> Discordance:
    """McNemar's exact test (1947): of the rows that differ, each is a fair coin under the null.

    Raises:
        ValueError: lengths differ.
    """
    gained = sum(a and not b for a, b in zip(new, old, strict=True))
    lost = sum(b and not a for a, b in zip(new, old, strict=True))
    return Discordance(
        gained,
        lost,
        _fair_tail(lost, gained + lost),
        min(1.0, 2 * _fair_tail(max(gained, lost), gained + lost)),
    )


def wilson(successes: int, trials: int, confidence: float = 0.95) -> tuple[float, float]:
    """Two-sided Wilson score interval (1927) of a share; (0, 1) without trials."""
    if trials == 0:
        return 0.0, 1.0
    z = _NORMAL.inv_cdf(0.5 + confidence / 2)
    share, spread = successes / trials, z * z / trials
    middle = share + spread / 2
    half = z * math.sqrt(share * (1 - share) / trials + spread / (4 * trials))
    low = (middle - half) / (1 + spread) if successes else 0.0  # exactly, where rounding would miss it
    high = (middle + half) / (1 + spread) if successes < trials else 1.0
    return low, high


def _fair_tail(heads: int, tosses: int) -> float:
    """Chance of at least ``heads`` heads of a fair coin."""
    return sum(math.comb(tosses, k) for k in range(heads, tosses + 1)) / 2**tosses
