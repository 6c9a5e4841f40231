"""The shape of every reconciler (law 2): claim, act, apply; renew meanwhile; back off when it fails.

A reconciler is killed at any point and started again, or another takes over when its lease runs out. So
what it does must be repeatable, and what it concludes counts only if its lease still held when it was
written down.
"""

from __future__ import annotations

import asyncio
import logging
from abc import ABC, abstractmethod
from collections.abc import Awaitable
from dataclasses import dataclass
from typing import Any, ClassVar, Generic, Protocol, TypeVar

from graftwork.control.bell import Bell
from graftwork.core.clock import Clock
from graftwork.core.errors import GraftworkError
from graftwork.store import Claim, Store, Tx

T = TypeVar("T")
log = logging.getLogger("graftwork.control")


class LeaseLost(Exception):
    """The row belongs to somebody else now: the work done for it is thrown away."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """How often things are looked at, and how long a claim lasts. Seconds."""

    poll: float = 1.0
    """Between two looks for due rows, unless the bell rings."""
    lease: float = 30.0
    width: int = 16
    """Rows worked on at a time by one reconciler."""
    backoff: float = 1.0
    """Before the first new try after a failure; doubled at each further one."""
    backoff_limit: float = 120.0
    tries: int = 8
    """Failures in a row after which a row is given up (``Reconciler.give_up``)."""


class Rows(Protocol[T]):
    """The claiming part of a repository."""

    async def claim(self, owner: str, limit: int = 1, lease_seconds: float = 30.0) -> list[Claim[T]]:
        """Lease due rows."""
        ...

    async def renew(self, claim: Claim[T], seconds: float) -> bool:
        """Extend a lease; False if it was lost."""
        ...

    async def release(self, claim: Claim[T], next_at: float) -> bool:
        """Give a row back until ``next_at``; False if the lease was lost."""
        ...


class Loop(ABC):
    """Something done again and again until told to stop. A round that fails is logged and tried again."""

    name: ClassVar[str]

    def __init__(self, clock: Clock, bell: Bell, pace: Pace) -> None:
        self.clock = clock
        self.bell = bell
        self.pace = pace

    @abstractmethod
    async def once(self) -> int:
        """One round; how many things there were to do."""

    async def run(self, stop: asyncio.Event) -> None:
        """Rounds until ``stop``: at every ring of the bell, and every ``pace.poll`` seconds."""
        failures = 0
        while not stop.is_set():
            error = await self.guarded(self.once(), self.name)
            failures = 0 if error is None else failures + 1
            await self.bell.wait(self.delay(failures) if error else self.pace.poll)

    async def guarded(self, work: Awaitable[Any], what: str) -> Exception | None:
        """Await ``work``; the error it ended with. The one place where every error is caught, and told."""
        try:
            await work
        except LeaseLost:
            log.info("%s: lease lost, work thrown away", what)
        except GraftworkError as error:
            log.warning("%s: failed, tried again later: %s (%s)", what, error.text, error.code)
            return error
        except Exception as error:
            log.exception("%s: failed, tried again later", what)
            return error
        return None

    def delay(self, failures: int) -> float:
        """Seconds to wait after so many failures in a row."""
        return min(self.pace.backoff_limit, self.pace.backoff * 2.0 ** (max(1, failures) - 1))


class SlowLoop(Loop):
    """A loop that keeps to its own slow pace: a ring of the bell is not for it."""

    async def run(self, stop: asyncio.Event) -> None:
        """Rounds until ``stop``, every ``pace.poll`` seconds."""
        waiting = asyncio.create_task(stop.wait())
        while not stop.is_set():
            await self.guarded(self.once(), self.name)
            await asyncio.wait({waiting}, timeout=self.pace.poll)
        waiting.cancel()


class Reconciler(Loop, Generic[T]):
    """Claims due rows and works on several at a time, each under a lease that is renewed meanwhile."""

    def __init__(self, store: Store, clock: Clock, bell: Bell, pace: Pace, owner: str) -> None:
        super().__init__(clock, bell, pace)
        self.store = store
        self.owner = owner
        self._failures: dict[str, int] = {}

    @abstractmethod
    def rows(self, tx: Tx) -> Rows[T]:
        """The repository whose rows are claimed."""

    @abstractmethod
    def key(self, item: T) -> str:
        """The row's id."""

    @abstractmethod
    async def work(self, claim: Claim[T]) -> float:
        """Bring one row as far as it goes now; seconds until it should be looked at again.

        Raises:
            LeaseLost: somebody else has the row.
        """

    async def once(self) -> int:
        """Work on everything that is due now, to the end; how many rows that were."""
        claims = await self._claim(self.pace.width)
        await asyncio.gather(*(self._handle(claim) for claim in claims))
        return len(claims)

    async def run(self, stop: asyncio.Event) -> None:
        """Claim and work until ``stop``; then let go of what is under way, so that others may claim it."""
        tasks: set[asyncio.Task[None]] = set()

        async def round_() -> None:
            for claim in await self._claim(self.pace.width - len(tasks)):
                task = asyncio.create_task(self._handle(claim), name=f"{self.name} {self.key(claim.item)}")
                tasks.add(task)
                task.add_done_callback(tasks.discard)

        failures = 0
        try:
            while not stop.is_set():
                error = await self.guarded(round_(), self.name)
                failures = 0 if error is None else failures + 1
                await self.bell.wait(self.delay(failures) if error else self.pace.poll)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _claim(self, limit: int) -> list[Claim[T]]:
        if limit <= 0:
            return []
        async with self.store.begin() as tx:
            return await self.rows(tx).claim(self.owner, limit=limit, lease_seconds=self.pace.lease)

    async def _handle(self, claim: Claim[T]) -> None:
        key = self.key(claim.item)
        delay = 0.0

        async def attempt() -> None:
            nonlocal delay
            delay = await self._leased(claim)

        try:
            error = await self.guarded(attempt(), f"{self.name} {key}")
            if error is None:
                self._failures.pop(key, None)
            else:
                delay = await self._failed(claim, key, error)
        finally:
            # Also when cancelled: whoever starts next finds the row free.
            await self._release(claim, delay)
        if delay <= 0:
            self.bell.ring()

    async def _failed(self, claim: Claim[T], key: str, error: Exception) -> float:
        """Seconds to wait before the next try; after many failures in a row, something else is done."""
        failures = self._failures[key] = self._failures.get(key, 0) + 1
        if failures < self.pace.tries:
            return self.delay(failures)
        delay = self.pace.backoff_limit

        async def give_up() -> None:
            nonlocal delay
            delay = await self.give_up(claim, error)

        await self.guarded(give_up(), f"{self.name} {key} giving up")
        return delay

    async def give_up(self, claim: Claim[T], error: Exception) -> float:
        """Asked when the work on a row failed ``pace.tries`` times in a row; seconds until the next look."""
        return self.pace.backoff_limit

    async def _leased(self, claim: Claim[T]) -> float:
        """Work while a second task keeps the lease; work without a lease is ended."""
        work = asyncio.create_task(self.work(claim))
        keeper = asyncio.create_task(self._keep(claim))
        try:
            await asyncio.wait({work, keeper}, return_when=asyncio.FIRST_COMPLETED)
            if work.done():
                return work.result()
            keeper.result()
            raise LeaseLost
        finally:
            work.cancel()
            keeper.cancel()
            await asyncio.gather(work, keeper, return_exceptions=True)

    async def _keep(self, claim: Claim[T]) -> None:
        """Renew the lease; returns when it is lost, or when the work has become pointless."""
        held = True
        while held:
            await self.clock.sleep(self.pace.lease / 3)
            async with self.store.begin() as tx:
                held = await self.rows(tx).renew(claim, self.pace.lease)
            held = held and not await self.overtaken(claim)

    async def overtaken(self, claim: Claim[T]) -> bool:
        """Whether the work under way has become pointless; asked at each renewal."""
        return False

    async def _release(self, claim: Claim[T], seconds: float) -> None:
        async with self.store.begin() as tx:
            await self.rows(tx).release(claim, await tx.now() + seconds)
