"""A real `graft up` in its own process, on a free port, as a user would run it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from openai import OpenAI

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "src" / "graftwork" / "data" / "examples"


@dataclass
class Up:
    """A running server."""

    process: subprocess.Popen[bytes]
    url: str
    api_key: str | None
    data: Path
    clients: list[OpenAI] = field(default_factory=list)

    def client(self, key: str | None = None) -> OpenAI:
        """A stock client, closed when the server is stopped."""
        made = OpenAI(base_url=f"{self.url}/v1", api_key=key or self.api_key, max_retries=2)
        self.clients.append(made)
        return made

    def stop(self, how: signal.Signals = signal.SIGTERM, wait: float = 60.0) -> int:
        for client in self.clients:
            client.close()
        self.process.send_signal(how)
        code = self.process.wait(timeout=wait)
        if self.process.stdout:
            self.process.stdout.close()
        return code


def clean_environment(home: Path) -> dict[str, str]:
    """What a fresh shell has, and nothing else."""
    return {"PATH": os.environ["PATH"], "HOME": str(home), "LANG": "C.UTF-8", "PYTHONPATH": str(ROOT / "src")}


def start(data: Path, *options: str) -> Up:
    data.mkdir(parents=True, exist_ok=True)
    log = (data / "server.log").open("ab")
    process = subprocess.Popen(
        [sys.executable, "-m", "graftwork", "up", "--data", str(data), "--port", "0", *options],
        stdout=subprocess.PIPE,
        stderr=log,
        env=clean_environment(data),
    )
    log.close()
    line = process.stdout.readline() if process.stdout else b""
    if not line:
        pytest.fail(f"the server did not start:\n{(data / 'server.log').read_text()[-4000:]}")
    ready = json.loads(line)
    assert set(ready) == {"url", "api_key", "data"}
    return Up(process, ready["url"], ready["api_key"], Path(ready["data"]))


@contextmanager
def running(data: Path, *options: str) -> Iterator[Up]:
    up = start(data, *options)
    try:
        yield up
    finally:
        up.stop()


@pytest.fixture(scope="session")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    """One server for the tests that only use it."""
    with running(tmp_path_factory.mktemp("up")) as server:
        yield server


@pytest.fixture(scope="session")
def trained(up: Up):
    """A finished job on the ticket example: the job object."""
    client = up.client()
    files = [upload(client, EXAMPLES / f"tickets.{kind}.jsonl") for kind in ("train", "valid")]
    job = client.fine_tuning.jobs.create(
        model="seedling", training_file=files[0], validation_file=files[1], suffix="tickets", seed=7
    )
    return finish(client, job.id)


def upload(client: OpenAI, path: Path) -> str:
    with path.open("rb") as handle:
        made = client.files.create(file=handle, purpose="fine-tune")
    return client.files.wait_for_processing(made.id, poll_interval=0.2).id


def finish(client: OpenAI, job_id: str, limit: float = 600.0):
    """The job once it has ended."""
    deadline = time.monotonic() + limit
    while time.monotonic() < deadline:
        job = client.fine_tuning.jobs.retrieve(job_id)
        if job.status in {"succeeded", "failed", "cancelled"}:
            return job
        time.sleep(0.5)
    raise AssertionError(f"{job_id} is still {job.status} after {limit} s")


def rows(name: str) -> list[dict]:
    return [json.loads(line) for line in (EXAMPLES / name).read_text().splitlines()]


def metrics(client: OpenAI, job_id: str) -> dict[int, float]:
    """Training loss by step, from the job's metrics events; a step told twice must be told alike."""
    found: dict[int, float] = {}
    for event in client.fine_tuning.jobs.list_events(job_id, limit=50):
        if event.type == "metrics" and "train_loss" in event.data:
            step, loss = event.data["step"], event.data["train_loss"]
            assert found.setdefault(step, loss) == loss, f"step {step} has two losses"
    return found
