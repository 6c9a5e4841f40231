"""The driver where the process fails to start, and what the process inherits."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from graftwork.core.errors import InvalidRequest, Unavailable
from graftwork.serving.embedded_driver import EmbeddedEngine
from graftwork.serving.embedded_process import EmbeddedOptions, child_environment
from graftwork.serving.port import EngineState
from graftwork.serving.registry import EngineConfig, create


def _program(folder: Path, body: str) -> str:
    """A stand-in for Python that does ``body`` whatever it is asked."""
    path = folder / "program"
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)
    return str(path)


def test_only_what_is_needed_is_inherited() -> None:
    ours = {"PATH": "/bin", "HOME": "/h", "OMP_NUM_THREADS": "2", "GRAFTWORK_KEY": "k", "OPENAI_API_KEY": "k"}
    child = child_environment({**ours, "DATABASE_URL": "d", "PYTHONPATH": "/p"})
    package = child["PYTHONPATH"].split(os.pathsep)[0]
    assert (Path(package) / "graftwork" / "serving").is_dir()
    assert child["PYTHONPATH"].endswith(os.pathsep + "/p")
    assert set(child) == {
        "PATH",
        "HOME",
        "OMP_NUM_THREADS",
        "PYTHONPATH",
        "HF_HUB_OFFLINE",
        "TOKENIZERS_PARALLELISM",
        "OMP_WAIT_POLICY",
    }


async def test_a_process_that_dies_while_starting_is_told_with_its_last_words(tmp_path: Path) -> None:
    engine = EmbeddedEngine(
        tmp_path / "root", EmbeddedOptions(python=_program(tmp_path, "echo no luck >&2; exit 7"))
    )
    for attempt in (1, 2):
        with pytest.raises(Unavailable, match=r"code 7.*no luck") as caught:
            await engine.ensure(tmp_path, "base")
        assert caught.value.code == "engine_start_failed"
        assert (tmp_path / "root" / "generation").read_text() == str(attempt)
    status = await engine.observe()
    assert status.state is EngineState.FAILED
    assert status.message is not None
    assert "no luck" in status.message
    await engine.destroy()
    assert (await engine.observe()).state is EngineState.ABSENT


async def test_a_process_that_is_never_ready_is_ended(tmp_path: Path) -> None:
    program = _program(tmp_path, f"echo $$ > {tmp_path}/pid; exec sleep 600")
    engine = EmbeddedEngine(tmp_path / "root", EmbeddedOptions(python=program, start_seconds=0.3))
    with pytest.raises(Unavailable, match="not ready"):
        await engine.ensure(tmp_path, "base")
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)


async def test_a_model_that_does_not_suit_is_the_callers_error(tmp_path: Path) -> None:
    told = '{"code":"unsupported_model","message":"Not that one.","fix":"Another."}'
    engine = EmbeddedEngine(
        tmp_path / "root", EmbeddedOptions(python=_program(tmp_path, f"echo '{told}' >&2; exit 3"))
    )
    with pytest.raises(InvalidRequest, match="Not that one") as caught:
        await engine.ensure(tmp_path, "base")
    assert (caught.value.code, caught.value.fix) == ("unsupported_model", "Another.")


async def test_the_token_is_private_and_new_each_time(tmp_path: Path) -> None:
    program = _program(tmp_path, f"cp {tmp_path}/root/token {tmp_path}/seen-$$; exit 1")
    engine = EmbeddedEngine(tmp_path / "root", EmbeddedOptions(python=program))
    for _ in range(2):
        with pytest.raises(Unavailable):
            await engine.ensure(tmp_path, "base")
    assert stat.S_IMODE((tmp_path / "root" / "token").stat().st_mode) == 0o600
    tokens = {path.read_text() for path in tmp_path.glob("seen-*")}
    assert len(tokens) == 2
    assert all(len(token) >= 32 for token in tokens)


def test_engines_are_made_by_name(tmp_path: Path) -> None:
    engine = create("embedded", EngineConfig(root=tmp_path, options={"max_running": 4}))
    assert isinstance(engine, EmbeddedEngine)
    assert engine._options.flags() == ["--max-running", "4"]
    with pytest.raises(InvalidRequest, match="nothing") as caught:
        create("nothing", EngineConfig(root=tmp_path))
    assert caught.value.code == "unknown_engine"
    assert "embedded" in caught.value.fix
