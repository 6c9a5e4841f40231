"""A bell between services and reconcilers: what was written down is looked at now, not at the next poll."""

from __future__ import annotations

import asyncio


class Bell:
    """Wakes every waiting loop. Missing a ring costs one poll interval, nothing else."""

    def __init__(self) -> None:
        self._event = asyncio.Event()

    def ring(self) -> None:
        """Wake all that wait now."""
        self._event.set()
        self._event = asyncio.Event()

    async def wait(self, seconds: float) -> None:
        """Return at the next ring, or after ``seconds`` of real time."""
        try:
            async with asyncio.timeout(seconds):
                await self._event.wait()
        except TimeoutError:
            return
