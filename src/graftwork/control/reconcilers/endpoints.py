"""Endpoints: an engine for every base model that is to be served; a restart raises its generation."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from graftwork.control.bases import Bases
from graftwork.control.bell import Bell
from graftwork.control.reconcilers.base import Loop, Pace
from graftwork.core.clock import Clock
from graftwork.core.errors import GraftworkError
from graftwork.core.nouns import Endpoint
from graftwork.serving.port import Engine, EngineInfo
from graftwork.store import Store

STARTING, READY, FAILED = "starting", "ready", "failed"

EngineFactory = Callable[[Endpoint], Engine]


class Engines:
    """The drivers of all engines, one for each endpoint, made when they are first asked for."""

    def __init__(self, factory: EngineFactory) -> None:
        self._factory = factory
        self._drivers: dict[str, Engine] = {}

    def of(self, endpoint: Endpoint) -> Engine:
        """The driver of an endpoint's engine."""
        if endpoint.id not in self._drivers:
            self._drivers[endpoint.id] = self._factory(endpoint)
        return self._drivers[endpoint.id]

    async def destroy(self) -> None:
        """End every engine that was asked for."""
        await asyncio.gather(*(driver.destroy() for driver in self._drivers.values()))


class EndpointReconciler(Loop):
    """Keeps one engine up for every endpoint. The slow start of one does not hold up the others."""

    name = "endpoints"

    def __init__(
        self, store: Store, bases: Bases, engines: Engines, clock: Clock, bell: Bell, pace: Pace
    ) -> None:
        super().__init__(clock, bell, pace)
        self._store = store
        self._bases = bases
        self._engines = engines
        self._failures: dict[str, int] = {}
        self._not_before: dict[str, float] = {}
        self._busy: dict[str, asyncio.Task[Exception | None]] = {}

    async def once(self) -> int:
        """Look at every endpoint that is due, and bring up what is down; how many were looked at."""
        tasks = await self._start_due()
        await asyncio.gather(*tasks)
        return len(tasks)

    async def run(self, stop: asyncio.Event) -> None:
        """Rounds until ``stop``."""
        try:
            while not stop.is_set():
                await self.guarded(self._start_due(), self.name)
                await self.bell.wait(self.pace.poll)
        finally:
            tasks = list(self._busy.values())
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _start_due(self) -> list[asyncio.Task[Exception | None]]:
        async with self._store.read() as tx:
            endpoints = await tx.endpoints.list()
        now = self.clock.now()
        started: list[asyncio.Task[Exception | None]] = []
        for endpoint in endpoints:
            if endpoint.id in self._busy or self._not_before.get(endpoint.id, 0.0) > now:
                continue
            task = asyncio.create_task(self.guarded(self._look(endpoint), f"endpoint {endpoint.base}"))
            self._busy[endpoint.id] = task
            task.add_done_callback(lambda _, id=endpoint.id: self._busy.pop(id, None))
            started.append(task)
        return started

    async def _look(self, endpoint: Endpoint) -> None:
        engine = self._engines.of(endpoint)
        status = await engine.observe()
        if status.info is None:
            if endpoint.state == READY:
                message = status.message or "The engine is being started again."
                await self._write(endpoint, state=STARTING, url=None, message=message)
            try:
                folder = await self._bases.path(endpoint.base)
                info = await engine.ensure(folder, endpoint.base)
            except GraftworkError as error:
                await self._failed(endpoint, error)
                return
        else:
            info = status.info
        self._failures.pop(endpoint.id, None)
        if _differs(endpoint, info):
            await self._write(
                endpoint,
                state=READY,
                url=info.url,
                token=info.token,
                generation=info.generation,
                message=None,
            )

    async def _failed(self, endpoint: Endpoint, error: GraftworkError) -> None:
        failures = self._failures[endpoint.id] = self._failures.get(endpoint.id, 0) + 1
        self._not_before[endpoint.id] = self.clock.now() + self.delay(failures)
        await self._write(endpoint, state=FAILED, url=None, message=error.text)

    async def _write(self, endpoint: Endpoint, **changes: str | int | None) -> None:
        async with self._store.begin() as tx:
            await tx.endpoints.update(endpoint.id, **changes)
            await tx.placements.poke(endpoint.id)
        self.bell.ring()


def _differs(endpoint: Endpoint, info: EngineInfo) -> bool:
    known = (endpoint.state, endpoint.url, endpoint.token, endpoint.generation)
    return known != (READY, info.url, info.token, info.generation)
