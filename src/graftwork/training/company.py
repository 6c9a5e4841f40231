"""Runs in company: who is to come aboard, what fits into one pass, and that nobody's trouble is another's."""

from __future__ import annotations

from collections.abc import Sequence

from graftwork.core.errors import GraftworkError
from graftwork.runs.assignments import read_assignments
from graftwork.runs.documents import Assignments
from graftwork.training.attempt import POLL_SECONDS, Time
from graftwork.training.engine import Engine, Sums, Work

WAIT_SECONDS = 0.2
"""Between two looks at the assignment list of a trainer that has nothing to train."""
ENDING_SECONDS = 10.0
"""Before the machine's deadline, when a trainer without a run ends itself."""


class AssignmentList:
    """What a machine's trainer is given, read again at most once a second.

    Args:
        uri: where the control plane writes the list.
        clocks: what time it is.
    """

    def __init__(self, uri: str, clocks: Time) -> None:
        self._uri, self._clocks = uri, clocks
        self._held = Assignments()
        self._taken: set[tuple[str, int]] = set()
        self._read = float("-inf")
        self._busy = clocks.monotonic()

    @property
    def tokens_per_pass(self) -> int | None:
        """What one pass may hold."""
        return self._held.tokens_per_pass

    @property
    def park(self) -> bool:
        """Whether optimizer states lie in main memory between their steps."""
        return self._held.park

    def news(self) -> list[str]:
        """URIs of runs to take in, each once, as ``uri#attempt``."""
        if self._clocks.monotonic() - self._read >= POLL_SECONDS:
            self._look()
        fresh = [run for run in self._held.runs if (run.uri, run.fence) not in self._taken]
        self._taken.update((run.uri, run.fence) for run in fresh)
        return [f"{run.uri}#{run.fence}" for run in fresh]

    def busy(self) -> None:
        """Runs are being trained: the time without any begins anew."""
        self._busy = self._clocks.monotonic()

    def over(self) -> bool:
        """Whether a trainer without a run should end: the list is closed, or nothing came for too long."""
        held, near = self._held, self._clocks.now() + ENDING_SECONDS
        idle = self._clocks.monotonic() - self._busy
        return held.closed or idle >= held.idle_s or (held.deadline is not None and near >= held.deadline)

    def _look(self) -> None:
        self._read = self._clocks.monotonic()
        try:
            self._held = read_assignments(self._uri) or self._held
        except (OSError, GraftworkError):
            return  # the idle time bounds how long a list that cannot be read is waited for


Outcome = Sums | Exception
"""What came of a work: its sums, or the error that is its alone."""


def passes(work: Sequence[Work], limit: int | None) -> list[list[int]]:
    """Divide works into passes: indices in order, as many in one as ``limit`` tokens hold, at least one.

    Of a work its largest micro-batch counts: an engine holds one micro-batch of each at a time.
    """
    groups: list[list[int]] = []
    held = 0
    for index, item in enumerate(work):
        size = max((sum(len(row.tokens) for row in rows) for rows in item.batches), default=0)
        if groups and (limit is None or held + size <= limit):
            groups[-1].append(index)
            held += size
        else:
            groups.append([index])
            held = size
    return groups


def forward_backward(engine: Engine, work: Sequence[Work], limit: int | None = None) -> list[Outcome]:
    """``engine.forward_backward`` in as many passes as ``limit`` asks for; every work has its own outcome.

    When a pass fails as a whole, its works are done again one by one: the gradient is set anew and dropout
    follows from the work's own seed, so those who are not to blame never notice.
    """
    groups = passes(work, limit)
    return [outcome for group in groups for outcome in _pass(engine, [work[index] for index in group])]


def _pass(engine: Engine, work: Sequence[Work]) -> list[Outcome]:
    try:
        return list(engine.forward_backward(work))
    except Exception as error:
        if len(work) == 1:
            return [error]
    return [outcome for item in work for outcome in _pass(engine, [item])]
