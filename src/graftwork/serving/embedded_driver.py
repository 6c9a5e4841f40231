"""The embedded engine's driver: ``Engine`` over one supervised process. No torch in this process."""

from __future__ import annotations

import asyncio
import contextlib
import os
from pathlib import Path

from graftwork.core.errors import GraftworkError, NotFound, Unavailable
from graftwork.serving.client import EngineClient
from graftwork.serving.embedded_process import POLL, EmbeddedOptions, Launcher, Running
from graftwork.serving.port import EngineInfo, EngineMetrics, EngineState, EngineStatus


class EmbeddedEngine:
    """``Engine`` over one supervised process.

    Args:
        root: folder for the token, the log and the generation; the generation grows over restarts of
            this process as well.
    """

    def __init__(self, root: Path, options: EmbeddedOptions | None = None) -> None:
        self._options = options or EmbeddedOptions()
        self._launcher = Launcher(root, self._options)
        self._lock = asyncio.Lock()
        self._running: Running | None = None
        self._starting = False
        self._failure: str | None = None

    async def ensure(self, base: Path, name: str) -> EngineInfo:
        """As ``Engine.ensure``."""
        base = _absolute(base)
        async with self._lock:
            running = self._running
            if running is not None and running.base == base and await self._answers(running):
                return running.info
            await self._end()
            self._starting = True
            try:
                self._running = await self._launcher.start(base, name)
            except GraftworkError as error:
                self._failure = error.text
                raise
            finally:
                self._starting = False
            self._failure = None
            return self._running.info

    async def observe(self) -> EngineStatus:
        """As ``Engine.observe``."""
        running = self._running
        if running is None:
            if self._starting:
                return EngineStatus(state=EngineState.STARTING)
            if self._failure is not None:
                return EngineStatus(state=EngineState.FAILED, message=self._failure)
            return EngineStatus(state=EngineState.ABSENT)
        try:
            async with asyncio.timeout(self._options.answer_seconds):
                state = await running.client.state()
        except (GraftworkError, TimeoutError):
            how = running.process.returncode
            what = "does not answer" if how is None else f"ended with code {how}"
            return EngineStatus(
                state=EngineState.FAILED, message=f"The engine process {what}. {self._launcher.last_words()}"
            )
        return EngineStatus(state=EngineState.READY, info=running.info, adapters=frozenset(state["adapters"]))

    async def load(self, name: str, directory: Path) -> None:
        """As ``Engine.load``."""
        await self._client().load(name, _absolute(directory))

    async def unload(self, name: str) -> None:
        """As ``Engine.unload``."""
        if self._alive():
            with contextlib.suppress(NotFound):
                await self._client().unload(name)

    async def adapters(self) -> set[str]:
        """As ``Engine.adapters``."""
        return set((await self._client().state())["adapters"]) if self._alive() else set()

    async def drain(self, seconds: float) -> bool:
        """As ``Engine.drain``."""
        if not self._alive():
            return True
        client = self._client()
        await client.drain()
        until = asyncio.get_running_loop().time() + seconds
        while busy := await _busy(client):
            if asyncio.get_running_loop().time() >= until:
                break
            await asyncio.sleep(POLL)
        return not busy

    async def destroy(self) -> None:
        """As ``Engine.destroy``."""
        async with self._lock:
            await self._end()
            self._failure = None

    async def metrics(self) -> EngineMetrics:
        """As ``Engine.metrics``."""
        return await self._client().metrics()

    def _alive(self) -> bool:
        return self._running is not None and self._running.process.returncode is None

    def _client(self) -> EngineClient:
        if self._running is None:
            raise Unavailable(
                "The engine is not running.", fix="Call ensure first.", code="engine_unreachable"
            )
        return self._running.client

    async def _answers(self, running: Running) -> bool:
        if running.process.returncode is not None:
            return False
        try:
            async with asyncio.timeout(self._options.answer_seconds):
                await running.client.state()
        except (GraftworkError, TimeoutError):
            return False
        return True

    async def _end(self) -> None:
        running, self._running = self._running, None
        if running is not None:
            await self._launcher.end(running)


def _absolute(path: Path) -> Path:
    """Without touching the disk: the process does not share this one's working directory by contract."""
    return Path(os.path.abspath(path))  # noqa: PTH100 - resolve() would follow links on the disk


async def _busy(client: EngineClient) -> bool:
    metrics = await client.metrics()
    return bool(metrics.running or metrics.waiting)
