"""Retention: kept requests go when their time is up, or when a project has too many."""

from __future__ import annotations

from typing import ClassVar

from graftwork.control.bell import Bell
from graftwork.control.reconcilers.base import Pace, SlowLoop
from graftwork.control.services.kept import MOST_BYTES, MOST_ROWS, tidy
from graftwork.core.clock import Clock
from graftwork.store import Store


class Retention(SlowLoop):
    """Deletes what has expired. A request that has is not given out even before it is deleted."""

    name: ClassVar[str] = "retention"

    def __init__(
        self,
        store: Store,
        clock: Clock,
        bell: Bell,
        pace: Pace,
        *,
        rows: int = MOST_ROWS,
        size: int = MOST_BYTES,
    ) -> None:
        super().__init__(clock, bell, pace)
        self._store = store
        self._limits = rows, size

    async def once(self) -> int:
        """One round; how many requests were deleted."""
        return await tidy(self._store, *self._limits)
