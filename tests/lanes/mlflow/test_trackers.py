"""A real MLflow server and TensorBoard's own reader, told by a real job and by hand."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from trackedruns import step, subject

from graftwork.trackers.mlflow import MLflow
from graftwork.trackers.tensorboard import TensorBoard
from tests.e2e.conftest import EXAMPLES, finish, running

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
Read = Callable[..., Any]


@pytest.fixture(scope="module")
def python() -> str:
    found = os.environ.get("GRAFTWORK_LANE_MLFLOW")
    if not found:
        pytest.skip(
            "needs `make lane-mlflow`: an MLflow server and TensorBoard in an environment of their own"
        )
    return found


@pytest.fixture(scope="module")
def read(python: str) -> Read:
    def ask(*arguments: str) -> Any:
        script = str(Path(__file__).parent / "read.py")
        done = subprocess.run([python, script, *arguments], capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr[-3000:]
        return json.loads(done.stdout)

    return ask


@pytest.fixture(scope="module")
def server(python: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A real server on a free port, with its own SQLite database."""
    folder = tmp_path_factory.mktemp("mlflow")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [python, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    command += ["--backend-store-uri", f"sqlite:///{folder / 'mlflow.db'}"]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, cwd=folder, stdout=log, stderr=log, start_new_session=True)
    url, deadline = f"http://127.0.0.1:{port}", time.monotonic() + 300
    while True:
        try:
            if httpx.get(f"{url}/health").status_code == 200:
                break
        except httpx.TransportError:
            pass
        if process.poll() is not None or time.monotonic() > deadline:
            pytest.fail(f"MLflow did not start:\n{(folder / 'log').read_text()[-3000:]}")
        time.sleep(0.5)
    yield url
    os.killpg(process.pid, signal.SIGKILL)  # its workers take their time otherwise
    process.wait(30)


async def test_mlflow_has_every_step_once_although_told_twice(server: str, read: Read):
    tracker = MLflow(server)
    remote = await tracker.tell(subject(), [step(1), step(2)])
    assert await tracker.tell(subject(), [step(1), step(2), step(3)]) == remote
    await tracker.tell(subject(remote=remote, step=3), [step(3), step(4)])
    await tracker.end(subject(remote=remote, step=4), "failed", 109.0)
    told = read("mlflow", server, remote)
    assert told["metrics"]["train/loss"] == [[n, pytest.approx(2.0 / n)] for n in (1, 2, 3, 4)]
    assert told["params"] == {"base": "seedling"}
    assert (told["status"], told["experiment"]) == ("FAILED", "acme/main")


async def test_tensorboard_reads_every_step_once(read: Read, tmp_path: Path):
    tracker = TensorBoard(tmp_path)
    for first in (1, 1, 4, 7):
        events = [step(number) for number in range(first, first + 3)]
        await tracker.tell(subject(step=first - 1), events)
    [(run, tags)] = read("tensorboard", str(tmp_path)).items()
    assert run == "acme/main/support-1"
    assert tags["train/loss"] == [[n, pytest.approx(2.0 / n)] for n in range(1, 10)]


def test_a_real_job_is_told_to_both(server: str, read: Read, tmp_path: Path):
    before = set(read("runs", server))
    board = tmp_path / "board"
    with running(tmp_path / "up", "--mlflow", server, "--tensorboard", str(board)) as up:
        client = up.client()
        lines = (EXAMPLES / "tickets.train.jsonl").read_bytes().splitlines(keepends=True)[:48]
        file = client.files.create(file=("rows.jsonl", b"".join(lines)), purpose="fine-tune")
        job = client.fine_tuning.jobs.create(
            model="seedling",
            training_file=file.id,
            suffix="tickets",
            hyperparameters={"n_epochs": 1, "batch_size": 4},
        )
        ended = finish(client, job.id)
        assert ended.status == "succeeded", ended.error
        events = client.fine_tuning.jobs.list_events(job.id, limit=100).data
        losses = sorted([e.data["step"], e.data["train_loss"]] for e in events if e.type == "metrics")
        [run] = _until(lambda: set(read("runs", server)) - before)
        told = _until(lambda: (found := read("mlflow", server, run))["status"] == "FINISHED" and found)
    assert len(losses) >= 8
    assert told["metrics"]["train/loss"] == [[n, pytest.approx(loss)] for n, loss in losses]
    assert told["params"]["base"] == "seedling"
    [(name, tags)] = read("tensorboard", str(board)).items()
    assert name.startswith("personal/default/tickets-")
    assert tags["train/loss"] == [[n, pytest.approx(loss, rel=1e-6)] for n, loss in losses]


def _until(look: Callable[[], Any]) -> Any:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        if found := look():
            return found
        time.sleep(1)
    raise AssertionError("MLflow was not told in time")
