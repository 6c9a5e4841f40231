"""MLflow is told every step once, whatever happens to answers."""

from __future__ import annotations

import pytest
import trackedruns
from fakemlflow import FakeMLflow

from graftwork.core.errors import Unavailable
from graftwork.runs.documents import Metrics
from graftwork.trackers.mlflow import MLflow
from graftwork.trackers.port import Subject


def step(number: int) -> Metrics:
    return trackedruns.step(number, valid_loss=1.0 if number % 2 == 0 else None)


def subject(**more) -> Subject:
    return trackedruns.subject(parameters={"base": "seedling", "long": "x" * 900}, **more)


async def test_steps_become_metrics_of_one_run():
    server = FakeMLflow()
    tracker = MLflow("http://mlflow", transport=server)
    remote = await tracker.tell(subject(), [step(1), step(2)])
    await tracker.tell(subject(remote=remote, step=2), [step(3)])
    await tracker.end(subject(remote=remote, step=3), "succeeded", 110.0)
    [run] = server.runs.values()
    assert server.experiments == {"acme/main": run.info["experiment_id"]}
    assert run.of("train/loss") == [(1, 2.0), (2, 1.0), (3, pytest.approx(2 / 3))]
    assert run.of("valid/loss") == [(2, 1.0)]
    assert run.tags == {"graftwork.job": "ftjob-1"}
    assert run.params["base"] == "seedling"
    assert len(run.params["long"]) == 500
    assert run.info["status"] == "FINISHED"
    assert run.info["end_time"] == 110_000


async def test_a_lost_answer_is_not_told_twice():
    server = FakeMLflow()
    tracker = MLflow("http://mlflow", transport=server)
    server.lose_answers = 1
    with pytest.raises(Unavailable):
        await tracker.tell(subject(), [step(1), step(2)])
    await tracker.tell(subject(), [step(1), step(2), step(3)])
    [run] = server.runs.values()
    assert [number for number, _ in run.of("train/loss")] == [1, 2, 3]


async def test_many_steps_go_in_batches_that_cut_no_step():
    server = FakeMLflow()
    await MLflow("http://mlflow", transport=server).tell(subject(), [step(n) for n in range(1, 400)])
    [run] = server.runs.values()
    assert [number for number, _ in run.of("train/loss")] == list(range(1, 400))
    assert len(run.metrics) > 2000


async def test_a_server_that_is_away_says_so():
    server = FakeMLflow()
    server.away = True
    with pytest.raises(Unavailable):
        await MLflow("http://mlflow", transport=server).tell(subject(), [step(1)])


async def test_a_token_is_sent():
    server = FakeMLflow()
    await MLflow("http://mlflow", token="t", transport=server).tell(subject(), [step(1)])
    assert set(server.authorization) == {"Bearer t"}
