"""The trainer tells often enough, and not more often than it is read."""

from faketime import FakeTime
from tinytraining import make_run

from graftwork.runs.transport import LocalTransport
from graftwork.training.attempt import Attempt, StopSignal
from graftwork.training.engine import Sums
from graftwork.training.reporting import Reporter


class Counting(LocalTransport):
    """Counts replaced objects."""

    replaced = 0

    def replace(self, path, data):
        self.replaced += 1
        super().replace(path, data)


def report(reporter, step):
    reporter.metrics(
        step,
        100 * step,
        epoch=step / 10,
        train=Sums(20.0, 10, 5),
        valid=None,
        rate=0.1,
        gradient_norm=1.0,
        memory_mb=5.0,
    )


def test_heartbeats_are_a_second_apart_and_phases_are_told_at_once(tmp_path):
    time = FakeTime()
    attempt = Attempt.open(make_run(tmp_path / "run"), time.clocks, StopSignal())
    transport = Counting(tmp_path / "run")
    attempt.writer.transport = transport
    reporter = Reporter(attempt, 1000)
    reporter.phase("training")
    reporter.at(0, 0)
    assert transport.replaced == 1
    for step in range(1, 101):
        time.skip(0.05)
        report(reporter, step)
    assert 4 <= transport.replaced <= 6
    reporter.phase("evaluating")
    assert transport.replaced <= 7
    beat = attempt.reader.heartbeat(attempt.fence)
    assert beat is not None
    assert (beat.phase, beat.step, beat.total_steps, beat.tokens, beat.loss) == (
        "evaluating",
        100,
        1000,
        10_000,
        2.0,
    )
    assert beat.tokens_per_s is not None and abs(beat.tokens_per_s - 2000) < 1e-3
    assert beat.eta_s is not None and abs(beat.eta_s - 45) < 1e-3


def test_speed_counts_from_where_the_attempt_began(tmp_path):
    time = FakeTime()
    attempt = Attempt.open(make_run(tmp_path / "run"), time.clocks, StopSignal())
    reporter = Reporter(attempt, 1000)
    reporter.at(500, 50_000)
    time.skip(10)
    report(reporter, 510)
    attempt.writer.flush()
    (event,), _ = attempt.reader.events(attempt.fence)
    assert event.type == "metrics" and event.tokens_per_s == 100
