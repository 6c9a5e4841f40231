"""The assignment list, passes, and errors that stay where they belong."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from companies import Company
from faketime import FakeTime
from tinytraining import make_rows, make_run

from graftwork.core.errors import InvalidRequest, TrainingError
from graftwork.core.states import Outcome
from graftwork.data.rendering import Encoded
from graftwork.runs.assignments import read_assignments, write_assignments
from graftwork.runs.documents import Assignment, Assignments
from graftwork.runs.reader import RunReader
from graftwork.runs.transport import LocalTransport
from graftwork.training.attempt import StopSignal
from graftwork.training.company import AssignmentList, forward_backward, passes
from graftwork.training.engine import Adapter, Sums, Work
from graftwork.training.train_lora import Trainer


def work(*sizes: int) -> Work:
    adapter = Adapter("a", torch.zeros(1), torch.zeros(1), (), ())
    rows = [[Encoded([1] * size, [True] * size, size)] for size in sizes]
    return Work(adapter, rows, seed=0)


def test_passes_hold_as_many_as_fit_in_order():
    items = [work(10), work(20, 5), work(40), work(100), work(1), work()]
    assert passes(items, None) == [[0, 1, 2, 3, 4, 5]]
    assert passes(items, 70) == [[0, 1, 2], [3], [4, 5]]
    assert passes(items, 1) == [[0], [1], [2], [3], [4, 5]]
    assert passes([], 5) == []


class Touchy:
    """An engine that refuses any pass with a work of 13 tokens in it."""

    def __init__(self) -> None:
        self.calls: list[int] = []

    def forward_backward(self, items: Any) -> list[Sums]:
        self.calls.append(len(items))
        if any(len(rows[0].tokens) == 13 for item in items for rows in item.batches):
            raise TrainingError("thirteen", code="unlucky")
        return [Sums(loss=float(len(item.batches[0][0].tokens)), tokens=1) for item in items]


def test_a_pass_that_fails_is_done_again_one_by_one():
    engine = Touchy()
    outcomes = forward_backward(engine, [work(1), work(13), work(3)])  # pyright: ignore[reportArgumentType]
    assert [o.loss for o in outcomes if isinstance(o, Sums)] == [1.0, 3.0]
    assert isinstance(outcomes[1], TrainingError)
    assert engine.calls == [3, 1, 1, 1]


def uri_of(tmp_path: Path) -> str:
    return f"{tmp_path}/assignments/m.json"


def test_a_list_is_written_whole_and_read_back(tmp_path: Path):
    uri = uri_of(tmp_path)
    assert read_assignments(uri) is None
    given = Assignments(runs=(Assignment(uri="/x", fence=2),), tokens_per_pass=7)
    write_assignments(uri, given)
    assert read_assignments(uri) == given
    Path(uri).write_text("{")
    with pytest.raises(Exception, match="cannot be read"):
        read_assignments(uri)
    with pytest.raises(InvalidRequest):
        read_assignments("nothing")


def test_runs_are_handed_out_once_and_a_list_is_read_once_a_second(tmp_path: Path):
    uri, time = uri_of(tmp_path), FakeTime()
    one, two = Assignment(uri="/a", fence=1), Assignment(uri="/a", fence=2)
    write_assignments(uri, Assignments(runs=(one,)))
    there = AssignmentList(uri, time.clocks)
    assert there.news() == ["/a#1"]
    write_assignments(uri, Assignments(runs=(one, two), tokens_per_pass=5, park=True))
    assert there.news() == []
    time.skip(1.0)
    assert there.news() == ["/a#2"]
    assert (there.tokens_per_pass, there.park) == (5, True)
    time.skip(1.0)
    Path(uri).write_text("not a list")
    assert there.news() == []
    assert there.tokens_per_pass == 5


@pytest.mark.parametrize(
    ("given", "seconds", "over"),
    [
        (Assignments(idle_s=20), 19, False),
        (Assignments(idle_s=20), 20, True),
        (Assignments(closed=True), 0, True),
        (Assignments(deadline=1_000_100.0), 80, True),
        (Assignments(deadline=1_000_100.0, idle_s=1000), 89, False),
        (Assignments(deadline=1_000_100.0, idle_s=1000), 91, True),
    ],
)
def test_a_trainer_without_a_run_ends_when_the_list_says_so(
    tmp_path: Path, given: Assignments, seconds: float, over: bool
):
    uri, time = uri_of(tmp_path), FakeTime()
    write_assignments(uri, given)
    there = AssignmentList(uri, time.clocks)
    there.news()
    time.skip(seconds)
    assert there.over() is over
    there.busy()
    if not given.closed and given.deadline is None:
        assert not there.over()


def test_a_trainer_takes_in_what_is_listed_until_the_list_is_closed(
    tmp_path: Path, engine: Any, renderer: Any
):
    uri, time = uri_of(tmp_path), FakeTime(tick=0.01)
    runs = [make_run(tmp_path / f"run{n}", make_rows(8, seed=n), seed=n) for n in range(3)]
    listed = [Assignment(uri=run, fence=1) for run in runs]
    slept: list[float] = []

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        time.skip(2.0)
        write_assignments(uri, Assignments(runs=tuple(listed), closed=True))

    clocks = type(time.clocks)(time.now, time.now, sleep)
    write_assignments(uri, Assignments(runs=tuple(listed[:2])))
    trainer = Trainer(lambda base: (engine, renderer), StopSignal(), clocks)
    trainer.run(AssignmentList(uri, clocks))
    assert slept
    for run in runs:
        result = RunReader(LocalTransport(Path(run))).result(1)
        assert result is not None and result.outcome is Outcome.SUCCEEDED


def test_a_signal_ends_everybody_and_takes_nobody_in(tmp_path: Path, engine: Any, renderer: Any):
    uri, time = uri_of(tmp_path), FakeTime(tick=0.01)
    first, second = (make_run(tmp_path / f"run{n}", make_rows(8, seed=n)) for n in range(2))
    company = Company(engine, renderer)
    company.join(first)
    company.turn()
    company.stop.raised = True
    write_assignments(uri, Assignments(runs=(Assignment(uri=second, fence=1),)))
    company.trainer.run(AssignmentList(uri, time.clocks))
    result = RunReader(LocalTransport(Path(first))).result(1)
    assert result is not None and (result.outcome, result.reason) == (Outcome.PAUSED, "signal")
    assert RunReader(LocalTransport(Path(second))).result(1) is None


def test_a_folder_that_is_not_one_and_an_engine_that_cannot_forget_end_nobody_else(
    tmp_path: Path, engine: Any, renderer: Any
):
    first, second = (make_run(tmp_path / f"run{n}", make_rows(8, seed=n), seed=n) for n in range(2))
    company = Company(engine, renderer)
    company.join(first)
    company.turn()
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "spec.json").write_text("{}")
    company.trainer.join(f"{broken}#1")
    company.trainer.join("s3://nowhere/run#1")
    company.trainer.join(f"{first}#x")
    assert company.trainer.platform_failed
    company.join(second)
    company.session(second).close = lambda: 1 / 0  # pyright: ignore[reportAttributeAccessIssue]
    company.finish()
    for run in (first, second):
        result = RunReader(LocalTransport(Path(run))).result(1)
        assert result is not None and result.outcome is Outcome.SUCCEEDED
