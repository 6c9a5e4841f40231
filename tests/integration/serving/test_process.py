"""The engine as a process: what it inherits, and that it never outlives whoever started it."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import textwrap
from pathlib import Path

import pytest

from graftwork.core.errors import InvalidRequest
from graftwork.serving.embedded_driver import EmbeddedEngine
from graftwork.serving.embedded_process import EmbeddedOptions, child_environment

pytestmark = pytest.mark.slow

STARTER = """
import asyncio, sys
from pathlib import Path
from graftwork.serving.embedded_driver import EmbeddedEngine, EmbeddedOptions

async def main():
    engine = EmbeddedEngine(Path(sys.argv[1]), EmbeddedOptions(device="cpu"))
    await engine.ensure(Path(sys.argv[2]), "tiny")
    print("up", flush=True)
    await asyncio.sleep(600)

asyncio.run(main())
"""


async def _gone(pid: int) -> None:
    """Wait until no process has this id (a zombie has ended)."""
    while True:
        try:
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                return
        except FileNotFoundError:
            return
        await asyncio.sleep(0.02)


async def test_the_engine_dies_with_its_parent_and_has_none_of_its_secrets(qwen, tmp_path) -> None:
    environment = {**child_environment(os.environ), "GRAFTWORK_SECRET": "do-not-pass-on"}
    parent = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", textwrap.dedent(STARTER), str(tmp_path), str(qwen.base)),
        stdout=asyncio.subprocess.PIPE,
        env=environment,
    )
    assert parent.stdout is not None
    assert await parent.stdout.readline() == b"up\n"
    pid = json.loads((tmp_path / "ready.json").read_text())["pid"]
    assert b"do-not-pass-on" in Path(f"/proc/{parent.pid}/environ").read_bytes()
    assert b"do-not-pass-on" not in Path(f"/proc/{pid}/environ").read_bytes()
    parent.send_signal(signal.SIGKILL)
    await parent.wait()
    async with asyncio.timeout(30):
        await _gone(pid)


async def test_sigterm_ends_it_in_order(qwen, tmp_path) -> None:
    engine = EmbeddedEngine(tmp_path, EmbeddedOptions(device="cpu"))
    await engine.ensure(qwen.base, "tiny")
    os.kill(json.loads((tmp_path / "ready.json").read_text())["pid"], signal.SIGTERM)
    assert engine._running is not None
    assert await engine._running.process.wait() == 0
    await engine.destroy()


async def test_a_folder_that_is_no_model_is_told_apart(tmp_path) -> None:
    base = tmp_path / "base"
    base.mkdir()
    (base / "config.json").write_text('{"model_type": "gpt2"}')
    engine = EmbeddedEngine(tmp_path / "root", EmbeddedOptions(device="cpu"))
    with pytest.raises(InvalidRequest, match="gpt2") as caught:
        await engine.ensure(base, "tiny")
    assert caught.value.code == "unsupported_model"
