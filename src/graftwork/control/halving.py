"""Successive halving: many trials begin, the worse are stopped at each rung, one goes to the end. Pure.

Jamieson & Talwalkar 2016 (arXiv:1502.07943), with trials that have each their own number of steps: a rung
lies at the same share of every trial's own schedule, and what is compared is the held-out loss at the first
evaluation from there on. Nothing is decided before all who are still in have come that far; who is there much
earlier than the others waits, so that nobody ends before the decision.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import Literal

from graftwork.core.errors import InvalidRequest

KEEP_ONE_OF = 3
"""Of so many trials one goes on at each rung."""
MOST_TRIALS = 32
Act = Literal["go", "hold", "stop"]


@dataclass(frozen=True, slots=True)
class Point:
    """One trial's place in the search."""

    rank: int | None = None
    rate: float | None = None
    """Multiplier of the base model's learning rate."""
    epochs: int | None = None


@dataclass(frozen=True, slots=True)
class Rung:
    """Where trials are compared."""

    at: float
    """Share of a trial's own steps."""
    keep: int
    """How many go on."""


@dataclass(frozen=True, slots=True)
class Standing:
    """How far a trial that is still in has come."""

    number: int
    share: float
    """Of its own steps."""
    loss: float | None
    """Held-out, at the rung now; None before it."""
    over: bool = False
    """Whether it trains no more, well or badly ended."""


def points(
    ranks: Sequence[int], rates: Sequence[float], epochs: Sequence[int], trials: int | None, seed: int
) -> list[Point]:
    """The grid of what is to be tried; with fewer ``trials`` than it has, so many drawn by ``seed``.

    An empty list leaves its choice to the planner.

    Raises:
        InvalidRequest: ``sweep_too_large``, or a number out of range.
    """
    grid = [Point(*values) for values in product(ranks or [None], rates or [None], epochs or [None])]
    wanted = len(grid) if trials is None else trials
    if not 1 <= wanted <= MOST_TRIALS:
        raise InvalidRequest(
            f"A sweep has 1 to {MOST_TRIALS} trials; this would have {wanted}.",
            fix="Give fewer values, or a number of trials to draw from them.",
            code="sweep_too_large",
            param="trials",
        )
    if wanted >= len(grid):
        return grid
    drawn = random.Random(f"sweep/{seed}").sample(range(len(grid)), wanted)
    return [grid[index] for index in sorted(drawn)]


def rungs(count: int) -> list[Rung]:
    """The rungs of ``count`` trials: after the last only one is left, at a third of its way."""
    keeps: list[int] = []
    left = count
    while left > 1:
        left = -(-left // KEEP_ONE_OF)
        keeps.append(left)
    return [Rung(1.0 / KEEP_ONE_OF ** (len(keeps) - n), keep) for n, keep in enumerate(keeps)]


def hold_at(ladder: Sequence[Rung], rung: int) -> float:
    """The share at which a trial waits for the decision on ``rung``: half-way to what comes after it."""
    after = ladder[rung + 1].at if rung + 1 < len(ladder) else 1.0
    return (ladder[rung].at + after) / 2


def judge(ladder: Sequence[Rung], rung: int, standings: Sequence[Standing]) -> dict[int, Act] | None:
    """What those who are still in do next; None while nothing but holding is to be said.

    Returns:
        Numbers to ``go`` or ``stop``, once the rung is decided. A trial that is over without a loss stops.
    """
    if any(one.loss is None and not one.over for one in standings):
        return None
    ranked = sorted(
        (one for one in standings if one.loss is not None), key=lambda one: (one.loss, one.number)
    )
    kept = {one.number for one in ranked[: ladder[rung].keep]}
    return {one.number: "go" if one.number in kept else "stop" for one in standings}


def holds(ladder: Sequence[Rung], rung: int, one: Standing) -> bool:
    """Whether a trial must wait for the others."""
    return rung < len(ladder) and one.loss is not None and one.share >= hold_at(ladder, rung)
