"""LLaMA-Factory itself, on a CPU: a run to the end, a pause and the next attempt, its parser's word."""

import os
import signal
import time

import pytest
from reallytrained import PATIENCE, check_result, order, prepare, said, start
from tinytraining import make_base

from graftwork.core.states import Outcome
from graftwork.runs.reader import RunReader
from graftwork.runs.transport import LocalTransport
from graftwork.training.schedule import learning_rate

LANE = os.environ.get("GRAFTWORK_LANE_LLAMAFACTORY")
pytestmark = pytest.mark.skipif(LANE is None, reason="needs `make lane-llamafactory`")
VARIABLE = "GRAFTWORK_TRAINER_LLAMAFACTORY"


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return make_base(tmp_path_factory.mktemp("tiny") / "base")


def test_it_trains_stops_when_told_and_goes_on(base, tmp_path):
    uri = prepare(base, tmp_path / "run", "llamafactory", learning_rate=0.03)
    reader = RunReader(LocalTransport(uri))
    order(uri, 1)
    process = start(uri, VARIABLE, LANE)
    limit = time.monotonic() + PATIENCE
    while not reader.events(1)[0] or not any(event.type == "metrics" for event in reader.events(1)[0]):
        assert process.poll() is None and time.monotonic() < limit, said(uri)
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    assert process.wait(PATIENCE) == 0, said(uri)
    first = reader.result(1)
    assert first is not None
    if first.outcome is Outcome.SUCCEEDED:  # it was done before it heard
        fence, before = 1, 0
    else:
        assert (first.outcome, first.reason) == (Outcome.PAUSED, "signal") and 0 < first.step < 12
        order(uri, 2)
        assert start(uri, VARIABLE, LANE).wait(PATIENCE) == 0, said(uri)
        fence, before = 2, first.step
    steps = check_result(uri, fence)
    assert [metrics.step for metrics in steps] == list(range(before + 1, 13))
    spec = reader.spec()
    for metrics in steps:  # the schedule is ours, step by step
        assert metrics.lr in (
            pytest.approx(learning_rate(spec.schedule, metrics.step - 1, 12), rel=1e-4, abs=1e-9),
            pytest.approx(learning_rate(spec.schedule, metrics.step, 12), rel=1e-4, abs=1e-9),
        )
