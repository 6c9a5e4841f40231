"""Two jobs in one trainer: the server is killed in mid-training, and both end as if nothing had happened."""

from __future__ import annotations

import signal
from pathlib import Path

import httpx
import pytest

from tests.e2e.conftest import EXAMPLES, Up, finish, metrics, running, start, upload
from tests.e2e.test_restart import wait_for_step

pytestmark = pytest.mark.slow


def begin(up: Up, data: Path, name: str, seed: int) -> str:
    """A short job; its id."""
    client = up.client()
    job = client.fine_tuning.jobs.create(
        model="seedling",
        training_file=upload(client, data),
        suffix=name,
        seed=seed,
        method={"type": "supervised", "supervised": {"hyperparameters": {"n_epochs": 4, "batch_size": 8}}},
        extra_body={"graftwork": {"checkpoint_every": 10}},
    )
    return job.id


def test_a_killed_server_finds_its_shared_machine_again(tmp_path: Path):
    data = tmp_path / "rows.jsonl"
    data.write_bytes(b"".join((EXAMPLES / "tickets.train.jsonl").read_bytes().splitlines(keepends=True)[:80]))
    first = start(tmp_path / "data")
    jobs = [begin(first, data, name, seed) for seed, name in enumerate(("one", "two"), 1)]
    for job_id in jobs:
        wait_for_step(first, job_id, 6)
    key = first.api_key
    first.stop(signal.SIGKILL)
    with running(tmp_path / "data") as second:
        second.api_key = key
        client = second.client()
        for job_id in jobs:
            job = finish(client, job_id)
            assert job.status == "succeeded", job.error
            assert sorted(metrics(client, job_id)) == list(range(1, 37))
            said = [event.message for event in client.fine_tuning.jobs.list_events(job_id, limit=100)]
            assert any("Trains together with another run" in message for message in said)
        bill = httpx.get(f"{second.url}/api/bill", headers={"authorization": f"Bearer {key}"}).json()
        assert {line["kind"] for line in bill["lines"] if line["quantity"]} >= {"training_tokens"}
