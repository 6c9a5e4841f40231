"""Whose turn it is: tokens are shared out fairly across projects, within one first come first served. Pure.

A project's account is what it was given lately: tokens trained within the window, and those reserved for jobs
that are training now. The next turn is always that of the project that was given least for its weight, whose
account then grows by the job's tokens: start-time fair queueing (Goyal, Vin & Cheng 1996) with whole jobs as
packets. A project that rested does not hoard: what is older than the window counts for nobody.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

WINDOW = 24 * 3600.0
"""Seconds for which trained tokens count."""


@dataclass(frozen=True, slots=True)
class Waiting:
    """A job that waits for its turn."""

    key: str
    project: str
    tokens: int
    """It is going to train."""
    since: float


def turns(
    waiting: Sequence[Waiting], given: Mapping[str, int], weights: Mapping[str, float] | None = None
) -> list[Waiting]:
    """All who wait, in the order in which it is their turn.

    Args:
        waiting: in any order.
        given: tokens each project was given lately; none is 0.
        weights: shares of projects; 1 each where nothing is said.
    """
    shares = weights or {}
    lines: dict[str, list[Waiting]] = defaultdict(list)
    for one in sorted(waiting, key=lambda one: (one.since, one.key)):
        lines[one.project].append(one)
    account = {project: given.get(project, 0) / shares.get(project, 1.0) for project in lines}
    order: list[Waiting] = []
    while lines:
        project = min(lines, key=lambda name: (account[name], lines[name][0].since, lines[name][0].key))
        first = lines[project].pop(0)
        order.append(first)
        account[project] += first.tokens / shares.get(project, 1.0)
        if not lines[project]:
            del lines[project]
    return order
