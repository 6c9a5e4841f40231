"""A clock that tests move."""

from __future__ import annotations

from graftwork.training.attempt import Time


class FakeTime:
    """Unix and monotonic seconds that stand still until ``skip``; or go on by ``tick`` at each look."""

    def __init__(self, tick: float = 0.0) -> None:
        self.unix = 1_000_000.0
        self.tick = tick

    def skip(self, seconds: float) -> None:
        """Let time pass."""
        self.unix += seconds

    def now(self) -> float:
        """Either clock."""
        self.unix += self.tick
        return self.unix

    @property
    def clocks(self) -> Time:
        """What a trainer takes."""
        return Time(now=self.now, monotonic=self.now)
