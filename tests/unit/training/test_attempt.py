"""What is wanted of an attempt: its control file, its lease, its deadline, its cost, a signal."""

import pytest
from faketime import FakeTime
from tinytraining import make_run

from graftwork.core.errors import GraftworkError, InvalidRequest
from graftwork.core.states import Want
from graftwork.runs.documents import Control
from graftwork.runs.folder import write_control
from graftwork.runs.transport import LocalTransport
from graftwork.training.attempt import GO, Attempt, Order, StopSignal


class Flaky(LocalTransport):
    """A folder that can be out of reach."""

    down = False

    def read(self, path):
        if self.down:
            raise ConnectionError("out of reach")
        return super().read(path)


@pytest.fixture
def time():
    return FakeTime()


@pytest.fixture
def stop():
    return StopSignal()


@pytest.fixture
def uri(tmp_path):
    return make_run(tmp_path / "run")


@pytest.fixture
def control(uri, time):
    def write(**changes):
        fields = {"fence": 1, "lease_until": time.unix + 60, "deadline": time.unix + 3600}
        write_control(LocalTransport(uri), Control(**{**fields, **changes}))

    return write


def test_without_a_control_file_there_are_no_limits_and_the_attempt_is_the_next(uri, time, stop):
    attempt = Attempt.open(uri, time.clocks, stop)
    assert attempt.fence == 1
    time.skip(1e9)
    assert attempt.orders.now() == GO
    attempt.writer.log("x")
    attempt.writer.flush()
    assert Attempt.open(uri, time.clocks, stop).fence == 2


def test_the_control_file_names_the_attempt_and_the_uri_can_insist_on_one(uri, time, stop, control):
    control(fence=3)
    assert Attempt.open(uri, time.clocks, stop).fence == 3
    late = Attempt.open(f"{uri}#2", time.clocks, stop)
    assert late.orders.now() == Order("leave")
    for wrong in ("x", "0", "-1"):
        with pytest.raises(InvalidRequest) as caught:
            Attempt.open(f"{uri}#{wrong}", time.clocks, stop)
        assert caught.value.code == "invalid_attempt"


def test_wishes_are_seen_within_a_second_or_so_and_not_polled_at_every_step(uri, time, stop, control):
    control()
    orders = Attempt.open(uri, time.clocks, stop).orders
    control(want=Want.PAUSE)
    assert orders.now() == GO
    time.skip(1.1)
    assert orders.now() == Order("pause", "pause")
    control(want=Want.CANCEL)
    time.skip(1.1)
    assert orders.now() == Order("cancel")
    control(fence=2)
    time.skip(1.1)
    assert orders.now() == Order("leave")


def test_a_lapsed_lease_pauses_unless_it_was_renewed_a_moment_ago(uri, time, stop, control):
    control(lease_until=time.unix + 10)
    orders = Attempt.open(uri, time.clocks, stop).orders
    time.skip(9.5)
    assert orders.now() == GO
    control(lease_until=time.unix + 10)
    time.skip(0.9)
    assert orders.now() == GO
    time.skip(10)
    assert orders.now() == Order("pause", "lease_lapsed")


def test_the_deadline_is_kept_with_time_to_save(uri, time, stop, control):
    control(deadline=time.unix + 100, lease_until=time.unix + 1000)
    orders = Attempt.open(uri, time.clocks, stop).orders
    time.skip(80)
    assert orders.now(margin=19) == GO
    assert orders.now(margin=20) == Order("pause", "deadline")


def test_the_cost_of_the_machine_is_capped(uri, time, stop, control):
    control(max_cost=1_000_000, price_per_hour=36_000_000, billed_since=time.unix - 50)
    orders = Attempt.open(uri, time.clocks, stop).orders
    time.skip(49)  # 99 s at a cent a second, of 100
    assert orders.now() == GO
    assert orders.now(margin=1.5) == Order("pause", "max_cost")
    control(max_cost=1_000_000)  # a cap without a price caps nothing
    time.skip(2)
    assert orders.now() == GO


def test_a_signal_pauses_and_a_cancel_goes_before_it(uri, time, stop, control):
    control()
    orders = Attempt.open(uri, time.clocks, stop).orders
    stop.raise_it(15, None)
    assert orders.now() == Order("pause", "signal")
    control(want=Want.CANCEL)
    time.skip(2)
    assert orders.now() == Order("cancel")


def test_a_folder_out_of_reach_is_worked_for_until_the_lease_lapses(uri, time, stop, control):
    control(lease_until=time.unix + 30)
    attempt = Attempt.open(uri, time.clocks, stop)
    flaky = Flaky(attempt.reader.transport.root)
    attempt.reader.transport = flaky
    flaky.down = True
    time.skip(20)
    assert attempt.orders.now() == GO
    time.skip(20)
    assert attempt.orders.now() == Order("pause", "lease_lapsed")


def test_a_folder_without_a_run_is_refused(tmp_path, time, stop):
    with pytest.raises(GraftworkError) as caught:
        Attempt.open(str(tmp_path), time.clocks, stop)
    assert caught.value.code == "run_folder_incomplete"
