"""The whole platform on this host: real processes as machines, a trainer without torch, a fake engine."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from controlhouse import TOKENS, answer, rows, score

from graftwork.control.platform import Platform
from graftwork.control.reconcilers.base import Pace
from graftwork.control.reconcilers.jobs.context import Limits
from graftwork.control.services.requests import JobRequest
from graftwork.control.settings import Settings
from graftwork.control.views import JobView
from graftwork.core.errors import Conflict
from graftwork.core.keys import key_matches, parse_key
from graftwork.core.states import TERMINAL, MachineState, Phase
from graftwork.testing.fake_engine import FakeEngine

PROGRAM = Path(__file__).parents[2] / "support" / "trainerprocess.py"


def settings(data: Path, steps: int, seconds: float) -> Settings:
    return Settings(
        data=data,
        organization="Acme",
        trainer=(sys.executable, str(PROGRAM), str(steps), str(seconds)),
        agreement_bound=0.01,
        pace=Pace(poll=0.1),
        limits=Limits(watch=0.1, waiting=0.1, company=1),
    )


@asynccontextmanager
async def running(given: Settings) -> AsyncIterator[Platform]:
    engine = FakeEngine(say=answer, score=score)
    async with Platform.start(given, engines=lambda endpoint: engine) as platform:
        yield platform


async def start_job(platform: Platform) -> str:
    assert platform.project is not None
    project = platform.project.id
    files = [
        await platform.files.create(project, filename=name, purpose="fine-tune", content=content)
        for name, content in (("train.jsonl", rows()), ("valid.jsonl", rows(12, start=500)))
    ]
    request = JobRequest(
        model="seedling", training_file=files[0].id, validation_file=files[1].id, suffix="codes", seed=1
    )
    return (await platform.jobs.create(project, request)).job.id


async def see(platform: Platform, job_id: str, *phases: Phase, step: int = 0) -> JobView:
    """Wait until the job is in one of ``phases`` (an end, if none is given) and at ``step``."""
    assert platform.project is not None
    async with asyncio.timeout(60):
        while True:
            view = await platform.jobs.get(platform.project.id, job_id)
            if view.job.phase in (phases or TERMINAL) and view.job.progress >= step:
                return view
            await asyncio.sleep(0.05)


async def test_the_first_start_makes_a_project_and_its_key_and_later_ones_find_them(tmp_path: Path):
    given = settings(tmp_path / "data", 4, 0.01)
    async with running(given) as platform:
        assert platform.first_start
        key, project = platform.first_key(), platform.project
        assert project is not None
        parts, [known] = parse_key(key), await platform.keys.list(project.id)
        assert parts is not None
        assert key_matches(parts.secret, known.digest, platform.pepper)
        with pytest.raises(Conflict):
            async with running(given):
                pass
        assert {check["name"] for check in await platform.doctor()} >= {"database", "disk", "provider local"}
    async with running(given) as platform:
        assert not platform.first_start
        assert platform.first_key() == key
        assert platform.project == project
        assert len(await platform.keys.list(project.id)) == 1


async def test_a_job_runs_on_a_real_process_to_its_alias(tmp_path: Path):
    async with running(settings(tmp_path / "data", 4, 0.01)) as platform:
        view = await see(platform, await start_job(platform))
        assert view.job.phase is Phase.DONE, view.job.error
        assert view.job.trained_tokens == 4 * TOKENS
        assert view.job.fine_tuned_model is not None
        assert platform.project is not None
        model = await platform.models.get(platform.project.id, view.job.fine_tuned_model)
        assert model.ready
        [adapter] = await platform.adapters.list(platform.project.id)
        assert [alias.name for alias in adapter.aliases] == ["production"]


async def test_a_server_that_stops_in_mid_training_goes_on_at_its_next_start(tmp_path: Path):
    given = settings(tmp_path / "data", 20, 0.1)
    async with running(given) as platform:
        job_id = await start_job(platform)
        await see(platform, job_id, Phase.TRAINING, step=3)
    async with running(given) as platform:
        view = await see(platform, job_id)
        assert view.job.phase is Phase.DONE, view.job.error
        assert view.job.trained_tokens == 20 * TOKENS
        assert (view.job.fence, view.job.losses) == (2, 0)
        assert platform.project is not None
        events = await platform.jobs.events_since(platform.project.id, job_id, limit=1000)
        assert [e.data["step"] for e in events if e.type == "metrics" and e.data] == list(range(1, 21))
        assert any("Training was interrupted (the server was away)" in event.message for event in events)
        bill = await platform.billing.bill(platform.project.id)
        [tokens] = [line for line in bill.lines if line.kind == "training_tokens"]
        assert (tokens.entries, tokens.quantity["trained_tokens"]) == (1, 20 * TOKENS)
        async with platform.store.read() as tx:
            machines = await tx.machines.for_job(job_id)
        assert [machine.state for machine in machines] == [MachineState.GONE] * 2


async def test_a_cancel_ends_the_process(tmp_path: Path):
    async with running(settings(tmp_path / "data", 1000, 0.1)) as platform:
        job_id = await start_job(platform)
        await see(platform, job_id, Phase.TRAINING)
        assert platform.project is not None
        await platform.jobs.cancel(platform.project.id, job_id)
        view = await see(platform, job_id)
        assert view.job.phase is Phase.CANCELLED
        assert await platform.pools["local"].provider.find("gw-") == []
