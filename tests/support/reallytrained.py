"""A real run of the trainer's own process with somebody's tool, and what must be true of it."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

from tinytraining import make_rows, make_run

from graftwork.core.specs import BaseRef, LoraSpec
from graftwork.core.states import Outcome
from graftwork.models.folder import revision_of
from graftwork.runs.documents import Control, Metrics
from graftwork.runs.folder import write_control
from graftwork.runs.reader import RunReader
from graftwork.runs.transport import LocalTransport

ROOT = Path(__file__).parents[2]
PATIENCE = 300


def prepare(base: Path, folder: Path, trainer: str, **changes: object) -> str:
    """A run of 12 steps of 4 rows for a trainer."""
    asked: dict[str, object] = {
        "n_epochs": 3,
        "checkpoint_every": 4,
        "lora": LoraSpec(rank=4, alpha=8),
        "base": BaseRef(name="tiny", repository=str(base), revision=revision_of(base)),
        **changes,
    }
    return make_run(folder, make_rows(16), make_rows(6, 9), trainer=trainer, **asked)


def order(uri: str, fence: int) -> None:
    """The attempt may go on for an hour."""
    later = time.time() + 3600
    write_control(LocalTransport(uri), Control(fence=fence, lease_until=later, deadline=later))


def start(uri: str, variable: str, python: str) -> subprocess.Popen[bytes]:
    """The trainer as a machine starts it."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1", variable: python}
    with Path(f"{uri}.stderr").open("ab") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "graftwork.training", "--run", uri], env=environment, stderr=log
        )


def said(uri: str) -> str:
    """Everything that was said, for a failing test."""
    reader = RunReader(LocalTransport(uri))
    logs = "".join(reader.log(fence)[0] for fence in reader.attempts())
    return Path(f"{uri}.stderr").read_text() + logs[-6000:]


def check_result(uri: str, fence: int = 1) -> list[Metrics]:
    """The run succeeded, learnt something, and left an adapter that its own probes are of."""
    reader = RunReader(LocalTransport(uri))
    result = reader.result(fence)
    assert result is not None and result.outcome is Outcome.SUCCEEDED, said(uri)
    assert (result.step, result.total_steps) == (12, 12)
    assert result.valid_loss is not None and result.base_valid_loss is not None
    assert result.valid_loss < result.base_valid_loss - 0.2
    assert result.adapter is not None and set(result.adapter.files) == {
        "adapter_config.json",
        "adapter_model.safetensors",
    }
    assert any(
        abs(one - other) > 1e-3
        for probe in result.probes
        for one, other in zip(probe.logprobs, probe.base_logprobs, strict=True)
    )
    steps = [event for event in reader.events(fence)[0] if isinstance(event, Metrics)]
    assert steps[-1].tokens == result.tokens
    return steps
