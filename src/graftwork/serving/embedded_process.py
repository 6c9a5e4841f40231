"""The embedded engine's process: started, waited for, ended. No torch in this process.

It listens on loopback and asks for a token made anew at every start. It inherits only the environment it
needs, none of the control plane's secrets, and dies with this process, whose end of its standard input
it watches.
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
from graftwork.core.errors import GraftworkError, InvalidRequest, Unavailable
from graftwork.serving.client import EngineClient
from graftwork.serving.port import EngineInfo

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

POLL = 0.05
"""Seconds between two looks at a process that starts or drains."""

_UNSUITABLE = 3
"""The process's exit code for a model it cannot run (``graftwork.serving.embedded.__main__``)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbeddedOptions:
    """How to run the engine process. None leaves the choice to it."""

    python: str = sys.executable
    device: str | None = None
    threads: int | None = None
    """Threads of one product on a CPU; more than one pays only for models of 100 M weights and more."""
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
            "--threads": self.threads,
            "--max-running": self.max_running,
            "--max-waiting": self.max_waiting,
            "--batch-tokens": self.batch_tokens,
            "--kv-tokens": self.kv_tokens,
        }
        return [word for flag, value in named.items() if value is not None for word in (flag, str(value))]


@dataclass(frozen=True, slots=True)
class Running:
    """A started process that has answered."""

    process: asyncio.subprocess.Process
    base: Path
    info: EngineInfo
    client: EngineClient


class Launcher:
    """Starts engine processes, one after another, with their files under ``root``."""

    def __init__(self, root: Path, options: EmbeddedOptions) -> None:
        self._root = root
        self._options = options

    async def start(self, base: Path, name: str) -> Running:
        """Start a process for ``base`` and wait until it answers; its generation is one more than the last.

        Raises:
            InvalidRequest: the model does not suit (code ``unsupported_model``).
            Unavailable: it died or took too long (code ``engine_start_failed``); nothing is left of it.
        """
        self._root.mkdir(parents=True, exist_ok=True)
        generation = self._next_generation()
        token = secrets.token_urlsafe(32)
        _write_private(self._root / "token", token)
        ready = self._root / "ready.json"
        ready.unlink(missing_ok=True)
        log_file = self._root / "engine.log"
        if log_file.exists():
            log_file.replace(self._root / "engine.log.1")  # what the last one died of
        with log_file.open("wb") as log:
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
        return Running(process, base, info, EngineClient(url, token))

    async def _wait_ready(self, process: asyncio.subprocess.Process, ready: Path) -> str:
        ended = asyncio.ensure_future(process.wait())
        try:
            async with asyncio.timeout(self._options.start_seconds):
                while not ended.done():
                    if url := _ready_url(ready):
                        return url
                    await asyncio.wait({ended}, timeout=POLL)
        except TimeoutError:
            raise self._failed(f"was not ready after {self._options.start_seconds:g} s") from None
        finally:
            ended.cancel()
        if process.returncode == _UNSUITABLE:
            raise self._unsuitable()
        raise self._failed(f"ended with code {process.returncode} while starting")

    def _failed(self, what: str) -> Unavailable:
        return Unavailable(
            f"The engine process {what}. {self.last_words()}",
            fix=f"See {self._root / 'engine.log'}.",
            code="engine_start_failed",
        )

    def _unsuitable(self) -> GraftworkError:
        try:
            told = orjson.loads(self.last_words())
            return InvalidRequest(told["message"], fix=told["fix"], code=told["code"], param="base")
        except (orjson.JSONDecodeError, KeyError):
            return self._failed("refused the model")

    def last_words(self) -> str:
        """The last line of the log."""
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

    async def end(self, running: Running) -> None:
        """End a process: SIGTERM, then SIGKILL. Blocks until it is gone."""
        await running.client.aclose()
        await _kill(running.process)
        _remove(self._root / "token")


def child_environment(ours: Mapping[str, str]) -> dict[str, str]:
    """The engine process's environment: ``PASSED_ON`` of ours, this package importable, no hub access."""
    kept = {name: ours[name] for name in PASSED_ON if name in ours}
    package = str(Path(graftwork.__file__).parent.parent)
    kept["PYTHONPATH"] = os.pathsep.join(filter(None, (package, kept.get("PYTHONPATH"))))
    # Passive: beside a trainer on the same cores, threads that spin at barriers make both many times slower.
    fixed = {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "OMP_WAIT_POLICY": "PASSIVE"}
    return {**kept, **fixed}


def _ready_url(ready: Path) -> str | None:
    return str(orjson.loads(ready.read_bytes())["url"]) if ready.exists() else None


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


def _remove(path: Path) -> None:
    path.unlink(missing_ok=True)
