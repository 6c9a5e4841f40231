"""The gateway's view of the store: held in memory, swapped whole when the store's generation changes."""

from __future__ import annotations

import asyncio
import contextlib
import logging

from sqlalchemy.exc import SQLAlchemyError

from graftwork.core.errors import Unavailable
from graftwork.store import Snapshot, Store

log = logging.getLogger(__name__)

USED_EVERY = 15.0
"""Seconds between notes of which keys were used."""


class Snapshots:
    """Keeps ``current`` no older than ``interval`` seconds, and fresher on demand.

    While the database cannot be reached the last snapshot stays in use: reading requests need no database,
    and what costs money fails at the ledger.
    """

    def __init__(self, store: Store, *, interval: float = 0.2, gap: float = 0.05) -> None:
        self._store = store
        self._interval = interval
        self._gap = gap
        self._current: Snapshot | None = None
        self._lock = asyncio.Lock()
        self._checked = -1.0
        self._changed = asyncio.Event()
        self._poller: asyncio.Task[None] | None = None
        self._used: set[str] = set()
        self._noted = 0.0

    @property
    def current(self) -> Snapshot:
        """The newest snapshot.

        Raises:
            Unavailable: ``start`` has not run yet.
        """
        if self._current is None:
            raise Unavailable("The gateway is starting.", fix="Try again in a second.", code="starting")
        return self._current

    async def start(self) -> None:
        """Read the first snapshot and keep polling until ``stop``."""
        await self.refresh()
        self._poller = asyncio.create_task(self._poll())

    async def stop(self) -> None:
        """End polling; note the keys used last."""
        if self._poller is not None:
            self._poller.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._poller
            self._poller = None
        with contextlib.suppress(SQLAlchemyError):
            await self._note_used()

    async def refresh(self) -> None:
        """Return with a snapshot that holds every change committed before this call."""
        asked = asyncio.get_running_loop().time()
        async with self._lock:
            if self._checked <= asked:
                await self._check()

    async def after_miss(self) -> None:
        """As ``refresh``, but however many ask, the store is asked once per ``gap`` seconds."""
        loop = asyncio.get_running_loop()
        asked = loop.time()
        async with self._lock:
            if self._checked > asked:
                return
            if (wait := self._checked + self._gap - asked) > 0:
                await asyncio.sleep(wait)
            with contextlib.suppress(SQLAlchemyError):
                await self._check()

    async def changed(self, timeout: float) -> None:
        """Return when a new snapshot is in, or after ``timeout`` seconds."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout):
                await self._changed.wait()

    def used(self, key_id: str) -> None:
        """Note that a key was used; written down in bulk later."""
        self._used.add(key_id)

    async def _check(self) -> None:
        checked = asyncio.get_running_loop().time()
        if self._current is None or await self._store.generation() != self._current.generation:
            async with self._store.read() as tx:
                self._current = await tx.snapshot()
            self._changed.set()
            self._changed = asyncio.Event()
        self._checked = checked

    async def _poll(self) -> None:
        while True:
            await asyncio.sleep(self._interval)
            try:
                await self.refresh()
                if asyncio.get_running_loop().time() - self._noted > USED_EVERY:
                    await self._note_used()
            except SQLAlchemyError as error:
                log.warning("the store cannot be read, the last snapshot stays in use: %s", error)

    async def _note_used(self) -> None:
        self._noted = asyncio.get_running_loop().time()
        used, self._used = self._used, set()
        if used:
            async with self._store.begin() as tx:
                await tx.keys.touch(used, await tx.now())
