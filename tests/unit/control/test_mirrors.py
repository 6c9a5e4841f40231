"""Trackers hear of every step once: live, after being away, across attempts; and no job notices them."""

from __future__ import annotations

import pytest
from controlhouse import STEPS, House
from fakemlflow import FakeMLflow

from graftwork.control.reconcilers.mirrors import MirrorReconciler
from graftwork.core.states import Phase
from graftwork.trackers.mlflow import MLflow


@pytest.fixture
def server() -> FakeMLflow:
    return FakeMLflow()


def mirrors(house: House, server: FakeMLflow) -> MirrorReconciler:
    return MirrorReconciler(
        house.store,
        MLflow("http://mlflow", transport=server),
        house.ctx.reader,
        clock=house.clock,
        bell=house.bell,
        pace=house.pace,
        owner="test",
    )


async def through(house: House, loop: MirrorReconciler, job_id: str, server: FakeMLflow) -> None:
    """Until the job has ended and everything was told."""
    for _ in range(120):
        await house.turn()
        await loop.once()
        run = next(iter(server.runs.values()), None)
        if (await house.job(job_id)).phase is Phase.DONE and run and run.info["status"] != "RUNNING":
            return
    raise AssertionError("it did not come to an end")


async def test_a_job_is_told_step_by_step_and_its_end(both: House, server: FakeMLflow):
    loop = mirrors(both, server)
    job = (await both.create()).job
    await through(both, loop, job.id, server)
    [run] = server.runs.values()
    assert run.of("train/loss") == [(n, pytest.approx(2.0 / n)) for n in range(1, STEPS + 1)]
    assert run.tags["graftwork.job"] == job.id
    assert run.info["run_name"].startswith("codes-")
    assert run.params["base"] == "seedling"
    assert run.params["lora_rank"]
    assert run.info["status"] == "FINISHED"
    assert list(server.experiments) == ["Acme/main"]


async def test_a_tracker_that_was_away_hears_everything_later(house: House, server: FakeMLflow):
    loop = mirrors(house, server)
    server.away = True
    job = (await house.create()).job
    while (await house.job(job.id)).phase is not Phase.DONE:
        await house.turn()
        await loop.once()
    assert not server.runs
    server.away = False
    for _ in range(200):
        await loop.once()
        await house.clock.advance(2.0)
    [run] = server.runs.values()
    assert [step for step, _ in run.of("train/loss")] == list(range(1, STEPS + 1))
    assert run.info["status"] == "FINISHED"


async def test_a_resumed_attempt_tells_no_step_twice(house: House, server: FakeMLflow):
    house.script.die_at = {1: 4}  # after step 3; the next attempt goes on from step 2
    loop = mirrors(house, server)
    job = (await house.create()).job
    await through(house, loop, job.id, server)
    [run] = server.runs.values()
    assert (await house.job(job.id)).fence == 2
    assert [step for step, _ in run.of("train/loss")] == list(range(1, STEPS + 1))


async def test_a_server_that_dies_after_telling_tells_nothing_twice(house: House, server: FakeMLflow):
    loop = mirrors(house, server)
    server.lose_answers = 2
    job = (await house.create()).job
    await through(house, loop, job.id, server)
    [run] = server.runs.values()
    assert [step for step, _ in run.of("train/loss")] == list(range(1, STEPS + 1))


async def test_a_finished_mirror_is_left_alone(house: House, server: FakeMLflow):
    loop = mirrors(house, server)
    job = (await house.create()).job
    await through(house, loop, job.id, server)
    async with house.store.read() as tx:
        [mirror] = await tx.mirrors.of_job(job.id)
    assert mirror.done
    assert mirror.step == STEPS
    await house.clock.advance(1000)
    assert await loop.once() == 0
