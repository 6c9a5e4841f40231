"""What docs/serving.md shows can be done as it is shown."""

from __future__ import annotations

import asyncio
import json
import os
import re
import sys
from pathlib import Path

import pytest
from tinyserving import make_adapter

from graftwork.serving.embedded_process import child_environment

ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "docs" / "serving.md").read_text()

pytestmark = pytest.mark.slow


def _blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE, flags=re.MULTILINE | re.DOTALL)


async def test_the_python_example(qwen, tmp_path, capsys) -> None:
    (source,) = _blocks("python")
    scope: dict = {}
    exec(compile(source, "docs/serving.md", "exec"), scope)
    await scope["main"](tmp_path, qwen.base, qwen.adapters["every"])
    printed = capsys.readouterr().out.splitlines()
    assert any(line.startswith("base ") for line in printed)
    assert any(line.startswith("a" * 32) for line in printed)
    assert "[None, -" in printed[-1]


async def test_the_example_command(qwen, tmp_path) -> None:
    command = next(block for block in _blocks("sh") if "serve_flat" in block)
    code, out = await _shell(command, qwen, make_adapter(tmp_path / "mine", qwen.base))
    assert code == 0, out
    assert "base: " in out
    assert "mine: " in out


async def test_the_measurement_runs_and_finds_the_answers_equal(qwen, tmp_path) -> None:
    command = next(block for block in _blocks("sh") if "bench" in block).strip()
    out = tmp_path / "result.json"
    code, said = await _shell(f"{command} --out {out}", qwen, qwen.adapters["every"])
    assert code == 0, said
    result = json.loads(out.read_text())
    assert result["answers_equal_to_one_by_one"] == "8 of 8"
    assert result["tokens_per_second"]["engine"] > 0


async def _shell(command: str, world, adapter: Path) -> tuple[int | None, str]:
    environment = {**child_environment(os.environ), "BASE": str(world.base), "ADAPTER": str(adapter)}
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{environment['PATH']}"
    process = await asyncio.create_subprocess_exec(
        *("bash", "-ec", command),
        cwd=ROOT,
        env=environment,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    out, _ = await process.communicate()
    return process.returncode, out.decode()


def test_every_route_of_the_page_exists(qwen) -> None:
    from graftwork.serving.wire.app import build_app
    from graftwork.testing.fake_engine import FakeBackend

    routes = {route.path for route in build_app(FakeBackend(), "t").routes}
    named = set(re.findall(r"`(?:GET|POST|DELETE) (/[a-z0-9/{}_-]+)", PAGE))
    assert named <= routes
    assert routes - named == {"/v1/models/{name}"}
