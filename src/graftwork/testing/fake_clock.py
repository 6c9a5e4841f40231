"""A clock that stands still until it is moved: tests of time never wait."""

from __future__ import annotations

import asyncio
import heapq
from itertools import count


class FakeClock:
    """Implements ``core.clock.Clock``. ``advance`` moves it and wakes who sleeps, in order of time."""

    def __init__(self, start: float = 1_800_000_000.0) -> None:
        """Args: ``start`` is the first unix time."""
        self._now = start
        self._order = count()
        self._sleepers: list[tuple[float, int, asyncio.Future[None]]] = []

    def now(self) -> float:
        """Unix time in seconds."""
        return self._now

    @property
    def sleeping(self) -> int:
        """How many tasks wait on this clock."""
        return sum(not future.done() for _, _, future in self._sleepers)

    async def sleep(self, seconds: float) -> None:
        """Wait until the clock was moved on by ``seconds``; 0 or less only lets others run."""
        if seconds <= 0:
            await asyncio.sleep(0)
            return
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._sleepers, (self._now + seconds, next(self._order), future))
        await future

    async def advance(self, seconds: float) -> None:
        """Move on by ``seconds``; sleepers wake at their own times, and what they start then counts too."""
        end = self._now + seconds
        await settle()
        while self._sleepers and self._sleepers[0][0] <= end:
            at, _, future = heapq.heappop(self._sleepers)
            self._now = max(self._now, at)
            if not future.done():
                future.set_result(None)
            await settle()
        self._now = end

    def set(self, now: float) -> None:
        """Jump to a time and wake nobody: a clock that was put forward or back."""
        self._now = now


async def settle(rounds: int = 20) -> None:
    """Let every task that can run go on until it waits for something else."""
    for _ in range(rounds):
        await asyncio.sleep(0)
