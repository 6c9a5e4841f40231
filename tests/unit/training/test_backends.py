"""Trainers other than the native one: found by name, run to a result, contained when they fail."""

import pytest
from faketime import FakeTime
from tinytraining import make_run

from graftwork.core.errors import InvalidRequest
from graftwork.core.states import Outcome
from graftwork.runs.documents import Metrics, Result
from graftwork.runs.reader import RunReader
from graftwork.runs.transport import LocalTransport
from graftwork.training.attempt import StopSignal
from graftwork.training.backends import backend_of
from graftwork.training.reporting import Reporter
from graftwork.training.train_lora import Trainer


class Scripted:
    """A backend that takes one step, obeys, and ends."""

    def __init__(self, error=None):
        self.error = error

    def run(self, attempt):
        order = attempt.orders.now()
        if order.act != "go":
            attempt.stop(order)
            return
        if self.error:
            raise self.error
        reporter = Reporter(attempt, 1)
        reporter.at(0, 0)
        reporter.record(
            Metrics(at=1.0, step=1, epoch=1.0, loss=2.0, lr=0.1, grad_norm=1.0, tokens=5, tokens_per_s=0,
                    memory_mb=1.0, extra={"rewards/margins": 0.5})
        )  # fmt: skip
        attempt.end(Result(outcome=Outcome.SUCCEEDED, step=1, tokens=5, seconds=attempt.seconds))


def no_base(_):
    raise AssertionError("a backend loads its own base model")


def train(uri, **changes):
    trainer = Trainer(no_base, StopSignal(), FakeTime(tick=0.001).clocks, **changes)
    trainer.join(uri)
    trainer.run()
    return trainer, RunReader(LocalTransport(uri))


def test_a_backend_takes_the_whole_attempt(tmp_path):
    uri = make_run(tmp_path / "run", trainer="trl")
    trainer, reader = train(uri, backend=lambda spec: Scripted() if spec.trainer == "trl" else None)
    assert reader.result(1).outcome is Outcome.SUCCEEDED
    assert not trainer.platform_failed
    (step,) = [event for event in reader.events(1)[0] if isinstance(event, Metrics)]
    assert step.extra == {"rewards/margins": 0.5}
    assert step.tokens_per_s > 0


def test_a_backends_error_becomes_the_result(tmp_path):
    uri = make_run(tmp_path / "run", trainer="trl")
    wrong = InvalidRequest("No.", fix="Ask otherwise.", code="not_so", param="rank")
    _, reader = train(uri, backend=lambda _: Scripted(wrong))
    assert (reader.result(1).error.code, reader.result(1).error.kind) == ("not_so", "user")


@pytest.mark.parametrize("trainer", ["nemo"])
def test_a_trainer_that_is_not_there_says_so(tmp_path, trainer):
    uri = make_run(tmp_path / "run", trainer=trainer)
    done, reader = train(uri, backend=lambda spec: backend_of(spec, {}))
    error = reader.result(1).error
    assert (error.code, error.kind) == ("trainer_not_installed", "platform")
    assert trainer in error.message
    assert done.platform_failed
