"""Jobs of two projects in one real trainer on this host, with a fake engine behind them."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from controlhouse import answer, rows

from graftwork.compute.local.folder import MachineFolder, ProcessRecord
from graftwork.control.platform import Platform
from graftwork.control.reconcilers.base import Pace
from graftwork.control.reconcilers.jobs.context import Limits
from graftwork.control.services.requests import JobRequest
from graftwork.control.settings import Settings
from graftwork.core.money import seconds_cost
from graftwork.core.nouns import Job, Machine, Organization, Project
from graftwork.core.specs import Hyperparameters
from graftwork.core.states import TERMINAL, EntryState, MachineState, Phase
from graftwork.serving.port import BASE
from graftwork.testing.fake_engine import FakeEngine

pytestmark = pytest.mark.slow

PRICE = 3_600_000
"""Micro-dollars an hour: a thousand a second."""


def score(model: str, tokens: Sequence[int]) -> list[float]:
    """An adapter whose effect nobody can miss."""
    return [-60.0 if model == BASE else -1.0] * len(tokens)


@asynccontextmanager
async def running(data: Path) -> AsyncIterator[Platform]:
    """A platform whose engine is a fake one, so that the trainer's numbers are nothing it could confirm."""
    given = Settings(
        data=data,
        price_per_hour=PRICE,
        agreement_bound=1e9,
        warm=(),
        pace=Pace(poll=0.1),
        limits=Limits(watch=0.2, waiting=0.1),
    )
    engine = FakeEngine(say=answer, score=score)
    async with Platform.start(given, engines=lambda endpoint: engine) as platform:
        yield platform


async def two_projects(platform: Platform) -> list[Project]:
    """The first one and another tenant's."""
    assert platform.project is not None
    organization = Organization(id="org-b", name="Bravo", created_at=1.0)
    project = Project(id="proj_b", organization_id="org-b", name="b", created_at=1.0)
    async with platform.store.begin() as tx:
        await tx.organizations.create(organization)
        await tx.projects.create(project)
    return [platform.project, project]


async def begin(platform: Platform, project: Project, epochs: int) -> Job:
    """A job of 30 short rows."""
    files = [
        await platform.files.create(project.id, filename=name, purpose="fine-tune", content=content)
        for name, content in (("train.jsonl", rows()), ("valid.jsonl", rows(12, start=500)))
    ]
    request = JobRequest(
        model="seedling",
        training_file=files[0].id,
        validation_file=files[1].id,
        suffix="codes",
        seed=1,
        hyperparameters=Hyperparameters(n_epochs=epochs, batch_size=4),
        options={"checkpoint_every": 4},
    )
    return (await platform.jobs.create(project.id, request)).job


async def see(platform: Platform, job: Job, *phases: Phase, step: int = 0, limit: float = 150) -> Job:
    """Wait until the job is in one of ``phases`` (an end, if none is given) and at ``step``."""
    async with asyncio.timeout(limit):
        while True:
            now = (await platform.jobs.get(job.project_id, job.id)).job
            if now.phase in (phases or TERMINAL) and now.progress >= step:
                return now
            await asyncio.sleep(0.1)


async def told(platform: Platform, job: Job) -> str:
    """A job's log."""
    events = await platform.jobs.events_since(job.project_id, job.id, limit=1000)
    return "\n".join(event.message for event in events)


async def machines(platform: Platform, jobs: list[Job]) -> list[Machine]:
    """All machines that the jobs ever had, each once, gone and paid to the last micro-dollar."""
    found: dict[str, Machine] = {}
    async with platform.store.read() as tx:
        entries = [e for job in jobs for e in await tx.ledger.for_job(job.project_id, job.id)]
        for job in jobs:
            for run in await tx.runs.list(job.id):
                machine = await tx.machines.get(run.machine)
                assert machine is not None
                found[machine.name] = machine
    assert all(entry.state is not EntryState.OPEN for entry in entries)
    for name, machine in found.items():
        assert machine.state is MachineState.GONE
        parts = [e for e in entries if e.kind == "machine_seconds" and e.refs["machine"] == name]
        seconds = sum(float(entry.quantity.get("seconds", 0)) for entry in parts if entry.amount)
        assert abs(sum(entry.amount for entry in parts) - seconds_cost(seconds, PRICE)) <= 1
    return list(found.values())


async def test_jobs_of_two_projects_train_in_one_process_to_their_ends(tmp_path: Path):
    async with running(tmp_path / "data") as platform:
        first, second = await two_projects(platform)
        jobs = [await begin(platform, first, 3), await begin(platform, second, 6)]
        done = [await see(platform, job) for job in jobs]
        assert [job.phase for job in done] == [Phase.DONE] * 2, await told(platform, jobs[0])
        assert len(await machines(platform, done)) == 1
        for job in done:
            text = await told(platform, job)
            assert "Trains together with another run on one machine" in text
            assert all(other.id not in text for other in done if other is not job)
        assert (done[1].trained_tokens or 0) == 2 * (done[0].trained_tokens or 0) > 0


async def test_a_killed_trainer_costs_each_of_its_runs_one_attempt(tmp_path: Path):
    async with running(tmp_path / "data") as platform:
        projects = await two_projects(platform)
        jobs = [await begin(platform, project, 10) for project in projects]
        for job in jobs:
            await see(platform, job, Phase.TRAINING, step=5)
        [name] = {path.name for path in (tmp_path / "data" / "machines").iterdir() if path.is_dir()}
        record = MachineFolder(tmp_path / "data" / "machines" / name).read(ProcessRecord)
        assert record is not None
        os.kill(record.pid, signal.SIGKILL)
        done = [await see(platform, job) for job in jobs]
        assert [job.phase for job in done] == [Phase.DONE] * 2, await told(platform, jobs[0])
        assert [job.fence for job in done] == [2, 2]
        await machines(platform, done)
        for job in done:
            assert "An attempt was lost" in await told(platform, job)
            steps = [
                event.data["step"]
                for event in await platform.jobs.events_since(job.project_id, job.id, limit=1000)
                if event.type == "metrics" and event.data
            ]
            assert steps == list(range(1, len(steps) + 1))
