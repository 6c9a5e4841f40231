"""The server stops or dies in mid-training and comes back: the job ends as if nothing had happened."""

from __future__ import annotations

import signal
import time
from pathlib import Path

import httpx
import pytest

from tests.e2e.conftest import EXAMPLES, Up, finish, metrics, running, start, upload

pytestmark = pytest.mark.slow


def begin(up: Up) -> str:
    """A job of a fixed shape; its id."""
    client = up.client()
    file = upload(client, EXAMPLES / "tickets.train.jsonl")
    held_out = upload(client, EXAMPLES / "tickets.valid.jsonl")
    job = client.fine_tuning.jobs.create(
        model="seedling",
        training_file=file,
        validation_file=held_out,
        suffix="steady",
        seed=3,
        method={"type": "supervised", "supervised": {"hyperparameters": {"n_epochs": 4}}},
        extra_body={"graftwork": {"checkpoint_every": 20}},
    )
    return job.id


def wait_for_step(up: Up, job_id: str, step: int, limit: float = 180.0) -> None:
    client = up.client()
    deadline = time.monotonic() + limit
    while time.monotonic() < deadline:
        job = client.fine_tuning.jobs.retrieve(job_id)
        assert job.status not in {"failed", "cancelled", "succeeded"}, (job.status, job.error)
        if (job.graftwork.get("progress") or {}).get("step", 0) >= step:
            return
        time.sleep(0.2)
    raise AssertionError(f"step {step} was not reached in {limit} s")


def bill(up: Up) -> dict:
    return httpx.get(f"{up.url}/api/bill", headers={"authorization": f"Bearer {up.api_key}"}).json()


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory):
    """The same job on a server that nobody touched: (curve, trained tokens)."""
    with running(tmp_path_factory.mktemp("unbroken")) as up:
        job_id = begin(up)
        job = finish(up.client(), job_id)
        assert job.status == "succeeded", job.error
        return metrics(up.client(), job_id), job.trained_tokens


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL], ids=["SIGTERM", "SIGKILL"])
def test_a_stopped_server_loses_nothing(how: signal.Signals, tmp_path: Path, unbroken):
    curve, tokens = unbroken
    first = start(tmp_path / "data")
    key = first.api_key
    job_id = begin(first)
    wait_for_step(first, job_id, 30)
    code = first.stop(how)
    if how == signal.SIGTERM:
        assert code == 0
    with running(tmp_path / "data") as second:
        assert second.api_key is None
        second.api_key = key
        job = finish(second.client(), job_id)
        assert job.status == "succeeded", job.error
        assert metrics(second.client(), job_id) == curve
        assert job.trained_tokens == tokens
        training = [line for line in bill(second)["lines"] if line["kind"] == "training_tokens"]
        assert sum(line["quantity"] for line in training) == tokens


def test_a_second_server_on_the_same_folder_is_refused(up: Up, tmp_path: Path):
    import subprocess
    import sys

    from tests.e2e.conftest import clean_environment

    done = subprocess.run(
        [sys.executable, "-m", "graftwork", "up", "--data", str(up.data), "--port", "0"],
        capture_output=True,
        env=clean_environment(tmp_path),
        timeout=60,
    )
    assert done.returncode == 5
    assert b"data_dir_in_use" in done.stderr
    assert not done.stdout
