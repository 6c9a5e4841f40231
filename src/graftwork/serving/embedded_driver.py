"""The embedded engine's driver: starts, watches and ends the engine process. No torch in this process.

The process listens on loopback and asks for a token made anew at every start. It inherits only the
environment it needs, none of the control plane's secrets, and dies with this process, whose end of its
standard input it watches.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import signal
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import orjson

import graftwork
from graftwork.core.errors import GraftworkError, InvalidRequest, NotFound, Unavailable
from graftwork.serving.client import EngineClient
from graftwork.serving.port import EngineInfo, EngineMetrics, EngineState, EngineStatus

PASSED_ON = (
    "PATH",
    "HOME",
    "LANG",
    "LC_ALL",
    "TZ",
    "TMPDIR",
    "PYTHONPATH",
    "VIRTUAL_ENV",
    "LD_LIBRARY_PATH",
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "CUDA_VISIBLE_DEVICES",
    "NVIDIA_VISIBLE_DEVICES",
)
"""All of the environment that the engine process inherits."""

_POLL = 0.05
"""Seconds between two looks at a process that starts or drains."""

_UNSUITABLE = 3
"""The process's exit code for a model it cannot run (``graftwork.serving.embedded.__main__``)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbeddedOptions:
    """How to run the engine process. None leaves the choice to it."""

    python: str = sys.executable
    device: str | None = None
    max_running: int | None = None
    max_waiting: int | None = None
    batch_tokens: int | None = None
    kv_tokens: int | None = None
    start_seconds: float = 180.0
    """How long it may take until it answers."""
    answer_seconds: float = 10.0
    """How long it may take to say that it lives."""

    def flags(self) -> list[str]:
        """As the process's command line."""
        named = {
            "--device": self.device,
            "--max-running": self.max_running,
            "--max-waiting": self.max_waiting,
            "--batch-tokens": self.batch_tokens,
            "--kv-tokens": self.kv_tokens,
        }
        return [word for flag, value in named.items() if value is not None for word in (flag, str(value))]


@dataclass(frozen=True, slots=True)
class _Running:
    """A started process that has answered."""

    process: asyncio.subprocess.Process
    base: Path
    info: EngineInfo
    client: EngineClient


class EmbeddedEngine:
    """``Engine`` over one supervised process.

    Args:
        root: folder for the token, the log and the generation; the generation grows over restarts of
            this process as well.
    """

    def __init__(self, root: Path, options: EmbeddedOptions | None = None) -> None:
        self._root = root
        self._options = options or EmbeddedOptions()
        self._lock = asyncio.Lock()
        self._running: _Running | None = None
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
                self._running = await self._start(base, name)
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
                state=EngineState.FAILED, message=f"The engine process {what}. {self._last_words()}"
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
            await asyncio.sleep(_POLL)
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

    async def _answers(self, running: _Running) -> bool:
        if running.process.returncode is not None:
            return False
        try:
            async with asyncio.timeout(self._options.answer_seconds):
                await running.client.state()
        except (GraftworkError, TimeoutError):
            return False
        return True

    async def _start(self, base: Path, name: str) -> _Running:
        self._root.mkdir(parents=True, exist_ok=True)
        generation = self._next_generation()
        token = secrets.token_urlsafe(32)
        _write_private(self._root / "token", token)
        ready = self._root / "ready.json"
        ready.unlink(missing_ok=True)
        with (self._root / "engine.log").open("wb") as log:
            process = await asyncio.create_subprocess_exec(
                self._options.python,
                *("-m", "graftwork.serving.embedded", "--base", str(base), "--name", name),
                *("--token-file", str(self._root / "token"), "--ready-file", str(ready)),
                *self._options.flags(),
                stdin=asyncio.subprocess.PIPE,
                stdout=log,
                stderr=log,
                env=child_environment(os.environ),
                start_new_session=True,
            )
        try:
            url = await self._wait_ready(process, ready)
        except BaseException:
            await _kill(process)
            raise
        info = EngineInfo(url=url, token=token, generation=generation)
        return _Running(process, base, info, EngineClient(url, token))

    async def _wait_ready(self, process: asyncio.subprocess.Process, ready: Path) -> str:
        ended = asyncio.ensure_future(process.wait())
        try:
            async with asyncio.timeout(self._options.start_seconds):
                while not ended.done():
                    if url := _ready_url(ready):
                        return url
                    await asyncio.wait({ended}, timeout=_POLL)
        except TimeoutError:
            raise self._failed(f"was not ready after {self._options.start_seconds:g} s") from None
        finally:
            ended.cancel()
        if process.returncode == _UNSUITABLE:
            raise self._unsuitable()
        raise self._failed(f"ended with code {process.returncode} while starting")

    def _failed(self, what: str) -> Unavailable:
        return Unavailable(
            f"The engine process {what}. {self._last_words()}",
            fix=f"See {self._root / 'engine.log'}.",
            code="engine_start_failed",
        )

    def _unsuitable(self) -> GraftworkError:
        try:
            told = orjson.loads(self._last_words())
            return InvalidRequest(told["message"], fix=told["fix"], code=told["code"], param="base")
        except (orjson.JSONDecodeError, KeyError):
            return self._failed("refused the model")

    def _last_words(self) -> str:
        try:
            lines = (self._root / "engine.log").read_text(errors="replace").strip().splitlines()
        except OSError:
            return ""
        return lines[-1][-2000:] if lines else ""

    def _next_generation(self) -> int:
        path = self._root / "generation"
        last = int(path.read_text()) if path.exists() else 0
        part = path.with_suffix(".part")
        part.write_text(str(last + 1))
        part.replace(path)
        return last + 1

    async def _end(self) -> None:
        running, self._running = self._running, None
        if running is not None:
            await running.client.aclose()
            await _kill(running.process)
            (self._root / "token").unlink(missing_ok=True)


def child_environment(ours: Mapping[str, str]) -> dict[str, str]:
    """The engine process's environment: ``PASSED_ON`` of ours, this package importable, no hub access."""
    kept = {name: ours[name] for name in PASSED_ON if name in ours}
    package = str(Path(graftwork.__file__).parent.parent)
    kept["PYTHONPATH"] = os.pathsep.join(filter(None, (package, kept.get("PYTHONPATH"))))
    return {**kept, "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}


def _absolute(path: Path) -> Path:
    """Without touching the disk: the process does not share this one's working directory by contract."""
    return Path(os.path.abspath(path))  # noqa: PTH100 - resolve() would follow links on the disk


def _ready_url(ready: Path) -> str | None:
    return str(orjson.loads(ready.read_bytes())["url"]) if ready.exists() else None


async def _busy(client: EngineClient) -> bool:
    metrics = await client.metrics()
    return bool(metrics.running or metrics.waiting)


async def _kill(process: asyncio.subprocess.Process, grace: float = 10.0) -> None:
    """SIGTERM, then SIGKILL to its whole group; returns when it is gone."""
    if process.returncode is None:
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(grace):
                await process.wait()
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    await process.wait()
    if process.stdin is not None:
        process.stdin.close()


def _write_private(path: Path, text: str) -> None:
    path.unlink(missing_ok=True)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(text)
