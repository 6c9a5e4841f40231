"""One attempt of several ranks: one writes, all obey the gravest order."""

import pytest
from tinytraining import make_run

from graftwork.core.errors import GraftworkError
from graftwork.core.states import Outcome
from graftwork.runs.documents import Result
from graftwork.training.attempt import GO, Order, StopSignal, Time
from graftwork.training.distributed.attempts import AgreedOrders, Onlooker, open_together
from graftwork.training.distributed.world import note_of


class Says:
    """A group of two in which the other rank's answers are known."""

    size = 2

    def __init__(self, rank, other):
        self.rank, self.other = rank, other

    @property
    def leads(self):
        return self.rank == 0

    def show(self, mine):
        return [mine, self.other] if self.leads else [self.other, mine]


class Fixed:
    def __init__(self, order):
        self.order = order

    def now(self, margin=0.0):
        return self.order


@pytest.mark.parametrize(
    ("leader", "follower", "agreed"),
    [
        (GO, (0, None), GO),
        (GO, (1, "signal"), Order("pause", "signal")),
        (Order("pause", "deadline"), (1, "signal"), Order("pause", "deadline")),
        (Order("cancel"), (1, "signal"), Order("cancel")),
        (Order("leave"), (0, None), Order("leave")),
    ],
)
def test_the_gravest_order_holds(leader, follower, agreed):
    assert AgreedOrders(Says(0, follower), Fixed(leader), StopSignal()).now() == agreed  # pyright: ignore


def test_a_follower_brings_in_its_signal_and_nothing_else():
    stop = StopSignal()
    orders = AgreedOrders(Says(1, (0, None)), Fixed(Order("cancel")), stop)  # pyright: ignore
    assert orders.now() == GO
    stop.raise_it()
    assert orders.now() == Order("pause", "signal")


def test_a_follower_writes_nothing_but_its_note(tmp_path, monkeypatch):
    uri = make_run(tmp_path / "run")
    before = sorted(tmp_path.rglob("*"))
    monkeypatch.setenv("GRAFTWORK_RANK_NOTES", str(tmp_path))
    attempt = open_together(Says(1, 7), uri, Time(), StopSignal())  # pyright: ignore
    assert attempt.fence == 7
    attempt.writer.log("words")
    attempt.end(Result(outcome=Outcome.CANCELLED, step=0, tokens=0, seconds=0))
    assert sorted(tmp_path.rglob("*")) == sorted([*before, note_of(tmp_path, 1)])
    assert isinstance(attempt.writer.transport, Onlooker)


def test_a_leader_that_cannot_open_the_folder_stops_all(tmp_path):
    with pytest.raises(GraftworkError):
        open_together(Says(0, 0), str(tmp_path / "nothing"), Time(), StopSignal())  # pyright: ignore
    with pytest.raises(GraftworkError) as caught:
        open_together(Says(1, 0), make_run(tmp_path / "run"), Time(), StopSignal())  # pyright: ignore
    assert caught.value.code == "rank_lost"
