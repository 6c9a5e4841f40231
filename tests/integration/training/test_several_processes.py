"""One run on several processes: equal to one process, a lost rank named, and the next attempt goes on."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tinytraining import make_rows, make_run

from graftwork.core.specs import BaseRef, LoraSpec
from graftwork.core.states import Outcome, Want
from graftwork.models.folder import revision_of
from graftwork.runs.documents import Control, Metrics
from graftwork.runs.folder import write_control
from graftwork.runs.reader import RunReader
from graftwork.runs.transport import LocalTransport
from graftwork.training.distributed.launch import free_port

ROOT = Path(__file__).parents[3]
PATIENCE = 120
LOSS_BOUND, NORM_BOUND = 2e-5, 2e-4
"""Relative: fp32 sums of other order, over 40 steps of a learning rate of 1e-2."""


def start(uri, processes, launcher=()):
    """The trainer on ``processes`` processes, or under a launcher that starts them."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, *launcher, "-m", "graftwork.training", "--uri", uri]
    command += [] if launcher else ["--processes", str(processes)]
    with Path(f"{uri}.stderr").open("ab") as log:
        return subprocess.Popen(command, env=environment, stderr=log)


def said(uri):
    return Path(f"{uri}.stderr").read_text()


def order(uri, fence, want=Want.RUN):
    now = time.time()
    write_control(
        LocalTransport(uri), Control(want=want, fence=fence, lease_until=now + 3600, deadline=now + 3600)
    )


def curve(uri, *fences):
    found = {}
    for fence in fences:
        for event in RunReader(LocalTransport(uri)).events(fence)[0]:
            if isinstance(event, Metrics):
                found[event.step] = event
    return found


def close(one, other):
    """Whether two curves are the same within the bounds."""
    assert list(one) == list(other)
    for step in one:
        assert one[step].loss == pytest.approx(other[step].loss, rel=LOSS_BOUND)
        assert one[step].grad_norm == pytest.approx(other[step].grad_norm, rel=NORM_BOUND)
        assert (one[step].lr, one[step].tokens, one[step].epoch) == (
            other[step].lr,
            other[step].tokens,
            other[step].epoch,
        )
        assert (one[step].valid_loss is None) == (other[step].valid_loss is None)
        if one[step].valid_loss is not None:
            assert one[step].valid_loss == pytest.approx(other[step].valid_loss, rel=LOSS_BOUND)


def asked(base, **changes):
    return {
        "n_epochs": 4,
        "batch_size": 5,  # two ranks never get the same number of rows
        "accumulation": 2,
        "eval_every": 10,
        "checkpoint_every": 10,
        "lora": LoraSpec(rank=4, alpha=8),
        "base": BaseRef(name="tiny", repository=str(base), revision=revision_of(base)),
        **changes,
    }


@pytest.fixture(scope="module")
def alone(base, tmp_path_factory):
    uri = make_run(tmp_path_factory.mktemp("alone") / "run", make_rows(46), make_rows(7, 9), **asked(base))
    assert start(uri, 1).wait(PATIENCE) == 0
    return uri


def result_of(uri, fence=1):
    result = RunReader(LocalTransport(uri)).result(fence)
    assert result is not None, said(uri)
    return result


def wait_for_checkpoint(uri, fence, process):
    limit = time.monotonic() + PATIENCE
    while not any(owner == fence for owner, _ in RunReader(LocalTransport(uri)).checkpoints(fence)):
        assert process.poll() is None, said(uri)
        assert time.monotonic() < limit
        time.sleep(0.02)


@pytest.mark.slow
def test_two_processes_equal_one_and_hold_half_of_the_base_each(base, alone, tmp_path):
    uri = make_run(tmp_path / "run", make_rows(46), make_rows(7, 9), **asked(base))
    assert start(uri, 2).wait(PATIENCE) == 0, said(uri)
    close(curve(uri, 1), curve(alone, 1))
    two, one = result_of(uri), result_of(alone)
    assert (two.outcome, two.step, two.tokens, two.valid_tokens) == (
        one.outcome,
        one.step,
        one.tokens,
        one.valid_tokens,
    )
    assert two.machine["processes"] == 2
    assert len(list((tmp_path / "run/attempts/1").glob("result.json"))) == 1
    whole = sum(file.stat().st_size for file in base.glob("*.safetensors"))
    assert 0.45 * whole < two.machine["base_bytes_per_process"] < 0.51 * whole


def rank_of(pid):
    """The rank in a process's environment, None where it has none, or is gone."""
    try:
        pairs = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return None
    return next((int(pair[5:]) for pair in pairs if pair.startswith(b"RANK=")), None)


def child(supervisor, rank):
    """Process id of a rank under its supervisor."""
    children = Path(f"/proc/{supervisor.pid}/task/{supervisor.pid}/children").read_text().split()
    return next(int(pid) for pid in children if rank_of(pid) == rank)


@pytest.mark.slow
def test_a_killed_rank_is_named_and_later_attempts_go_on_with_any_number_of_processes(base, tmp_path):
    longer = asked(base, n_epochs=16)
    whole, broken = (make_run(tmp_path / name, make_rows(46), make_rows(7, 9), **longer) for name in "ab")
    assert start(whole, 1).wait(PATIENCE) == 0

    order(broken, 1)
    process = start(broken, 2)
    wait_for_checkpoint(broken, 1, process)
    os.kill(child(process, 1), signal.SIGKILL)
    assert process.wait(PATIENCE) == 1
    lost = result_of(broken)
    assert (lost.outcome, lost.error.code, lost.error.kind) == (Outcome.FAILED, "rank_lost", "platform")
    assert lost.error.message.startswith("Rank 1 of 2 was killed by signal 9 (SIGKILL).")
    assert lost.step >= 10

    order(broken, 2)  # one process reads what two wrote
    process = start(broken, 1)
    wait_for_checkpoint(broken, 2, process)
    process.send_signal(signal.SIGTERM)
    assert process.wait(PATIENCE) == 0
    paused = result_of(broken, 2)
    assert (paused.outcome, paused.reason) == (Outcome.PAUSED, "signal")
    assert paused.step > lost.step

    order(broken, 3)  # and two, started by torchrun, read what one wrote
    torchrun = ("-m", "torch.distributed.run", "--nproc-per-node=2", f"--master-port={free_port()}")
    process = start(broken, 2, torchrun)
    assert process.wait(PATIENCE) == 0, said(broken)
    assert result_of(broken, 3).outcome is Outcome.SUCCEEDED
    assert min(curve(broken, 3)) == paused.step + 1
    close(curve(broken, 1, 2, 3), curve(whole, 1))


@pytest.mark.slow
def test_a_signal_pauses_all_ranks_at_the_same_step(base, tmp_path):
    uri = make_run(tmp_path / "run", make_rows(46), **asked(base, n_epochs=50))
    process = start(uri, 2)
    wait_for_checkpoint(uri, 1, process)
    process.send_signal(signal.SIGTERM)
    assert process.wait(PATIENCE) == 0, said(uri)
    paused = result_of(uri)
    assert (paused.outcome, paused.reason) == (Outcome.PAUSED, "signal")
    assert RunReader(LocalTransport(uri)).checkpoints(1)[-1][1].step == paused.step
