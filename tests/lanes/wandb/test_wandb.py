"""The real `wandb` package, offline: what it wrote is read back with its own reader."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
import trackedruns
from trackedruns import step

from graftwork.core.errors import Unavailable
from graftwork.trackers.port import Subject
from graftwork.trackers.weights_biases import WandB


@pytest.fixture
def python() -> str:
    found = os.environ.get("GRAFTWORK_LANE_WANDB")
    if not found:
        pytest.skip("needs `make lane-wandb`: the wandb package in an environment of its own")
    return found


def subject(**more: Any) -> Subject:
    return trackedruns.subject(job_id="ftjob-1a", group="Acme/main", **more)


async def test_offline_folders_hold_every_step_of_one_run(python: str, tmp_path: Path):
    tracker = WandB(tmp_path, "offline", python=python)
    remote = await tracker.tell(subject(), [step(1), step(2)])
    await tracker.tell(subject(remote=remote, step=2), [step(2), step(3)])
    await tracker.end(subject(remote=remote, step=3), "failed", 109.0)
    script = str(Path(__file__).parent / "read.py")
    done = subprocess.run([python, script, str(tmp_path / "wandb")], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    first, second, last = json.loads(done.stdout)
    assert {told["run"]["id"] for told in (first, second, last)} == {remote} == {"ftjob-1a"}
    assert first["run"]["project"] == "acme-main"
    assert (first["run"]["group"], first["run"]["name"]) == ("Acme/main", "support-1")
    assert first["run"]["config"]["base"] == "seedling"
    assert first["steps"] + second["steps"] == [[n, 2.0 / n] for n in (1, 2, 3)]
    assert (first["exit"], last["exit"]) == (0, 1)


async def test_a_missing_package_is_told(tmp_path: Path):
    tracker = WandB(tmp_path, "offline", python="/bin/false")
    with pytest.raises(Unavailable):
        await tracker.tell(subject(), [step(1)])
