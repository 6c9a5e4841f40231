"""The trainer as a process: killed and stopped in the middle, it ends as if nothing had happened."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tinytraining import make_rows, make_run

from graftwork.core.specs import BaseRef, LoraSpec
from graftwork.core.states import Outcome
from graftwork.models.folder import revision_of
from graftwork.runs.documents import Control, Metrics
from graftwork.runs.folder import write_control
from graftwork.runs.reader import RunReader
from graftwork.runs.transport import LocalTransport

ROOT = Path(__file__).parents[3]
PATIENCE = 120


def start(uri):
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1"}
    with Path(f"{uri}.stderr").open("ab") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "graftwork.training", "--run", uri], env=environment, stderr=log
        )


def said(uri):
    return Path(f"{uri}.stderr").read_text()


def order(uri, fence):
    now = time.time()
    write_control(LocalTransport(uri), Control(fence=fence, lease_until=now + 3600, deadline=now + 3600))


def wait_for_checkpoint(uri, fence, process):
    """Until the attempt has a checkpoint beyond those before it; fails should it end first."""
    limit = time.monotonic() + PATIENCE
    while not any(owner == fence for owner, _ in RunReader(LocalTransport(uri)).checkpoints(fence)):
        assert process.poll() is None, said(uri)
        assert time.monotonic() < limit
        time.sleep(0.02)


def curve(uri, *fences):
    reader = RunReader(LocalTransport(uri))
    steps = {}
    for fence in fences:
        for event in reader.events(fence)[0]:
            if isinstance(event, Metrics):
                steps[event.step] = event.model_dump(exclude={"at", "tokens_per_s", "memory_mb"})
    return steps


@pytest.mark.slow
def test_killed_then_stopped_then_finished_equals_unbroken(base, tmp_path):
    asked = {
        "n_epochs": 40,
        "eval_every": 50,
        "checkpoint_every": 20,
        "lora": LoraSpec(rank=4, alpha=8, dropout=0.1),
        "base": BaseRef(name="tiny", repository=str(base), revision=revision_of(base)),
    }
    whole, broken = (
        make_run(tmp_path / name, make_rows(40), make_rows(6, 9), **asked) for name in ("whole", "broken")
    )
    order(whole, 1)
    assert start(whole).wait(PATIENCE) == 0

    order(broken, 1)
    process = start(broken)
    wait_for_checkpoint(broken, 1, process)
    process.kill()
    process.wait()
    reader = RunReader(LocalTransport(broken))
    assert reader.result(1) is None

    order(broken, 2)
    process = start(broken)
    wait_for_checkpoint(broken, 2, process)
    process.send_signal(signal.SIGTERM)
    assert process.wait(PATIENCE) == 0
    paused = reader.result(2)
    assert paused is not None and (paused.outcome, paused.reason) == (Outcome.PAUSED, "signal")

    order(broken, 3)
    assert start(broken).wait(PATIENCE) == 0
    ended, unbroken = reader.result(3), RunReader(LocalTransport(whole)).result(1)
    assert ended is not None and unbroken is not None and ended.outcome is Outcome.SUCCEEDED
    assert curve(broken, 1, 2, 3) == curve(whole, 1)
    assert ended.adapter is not None and unbroken.adapter is not None
    assert ended.adapter.files == unbroken.adapter.files
    assert (ended.tokens, ended.step) == (unbroken.tokens, unbroken.step)
    assert min(curve(broken, 3)) == paused.step + 1


@pytest.mark.slow
def test_a_failing_platform_is_told_by_the_exit_code(tmp_path):
    gone = BaseRef(name="gone", repository=str(tmp_path / "nowhere"), revision="0")
    uri = make_run(tmp_path / "run", base=gone)
    assert start(uri).wait(PATIENCE) == 1
    result = RunReader(LocalTransport(uri)).result(1)
    assert result is not None and result.error is not None
    assert (result.error.code, result.error.kind) == ("model_not_found", "platform")
    assert "does not exist" in said(uri)
