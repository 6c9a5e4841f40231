"""Every engine under one contract: the fake one, and the embedded one as a real process."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from tinyserving import make_adapter, make_base

from graftwork.serving.client import EngineClient
from graftwork.serving.embedded_driver import EmbeddedEngine
from graftwork.serving.embedded_process import EmbeddedOptions
from graftwork.serving.port import Engine, EngineInfo
from graftwork.testing.fake_engine import FakeEngine

ENGINES = ["fake", pytest.param("embedded", marks=pytest.mark.slow)]


@dataclass
class Harness:
    """An engine, and what a test must know of it."""

    engine: Engine
    base: Path
    adapters: list[Path]
    """Two different ones."""
    kill: Callable[[], Awaitable[None]]
    """End it as a crash would."""

    async def up(self) -> EngineInfo:
        """Running, without adapters."""
        info = await self.engine.ensure(self.base, "tiny")
        for name in await self.engine.adapters():
            await self.engine.unload(name)
        return info


def _say(model: str, messages: list[dict[str, Any]]) -> str:
    """Long, so that it can be left early."""
    return f"{model} says " + "word " * 500


@pytest.fixture(scope="session")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Path]]:
    """A base model and two adapters."""
    root = tmp_path_factory.mktemp("contract")
    base = make_base(root / "base")
    return base, [make_adapter(root / f"adapter{i}", base, rank=2 + i, seed=i) for i in range(2)]


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=ENGINES)
async def harness(request, files, tmp_path_factory) -> AsyncIterator[Harness]:
    """Each engine in turn; the embedded process is shared by the module's tests."""
    base, adapters = files
    if request.param == "fake":
        fake = FakeEngine(say=_say)
        yield Harness(fake, base, adapters, fake.crash)
        await fake.destroy()
        return
    root = tmp_path_factory.mktemp("engine")
    engine = EmbeddedEngine(root, EmbeddedOptions(device="cpu", kv_tokens=8192, max_waiting=32))

    async def kill() -> None:
        os.kill(json.loads((root / "ready.json").read_text())["pid"], signal.SIGKILL)
        while (await engine.observe()).state == "ready":
            await asyncio.sleep(0.01)

    yield Harness(engine, base, adapters, kill)
    await engine.destroy()


@pytest_asyncio.fixture(loop_scope="module")
async def client(harness: Harness) -> AsyncIterator[EngineClient]:
    """A client of the running engine, which has no adapters."""
    info = await harness.up()
    async with EngineClient(info.url, info.token) as client:
        yield client
