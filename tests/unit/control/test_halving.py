"""Successive halving."""

from __future__ import annotations

import pytest

from graftwork.control.halving import Point, Rung, Standing, hold_at, holds, judge, points, rungs
from graftwork.core.errors import InvalidRequest


def test_the_grid_is_every_combination():
    assert points([8, 16], [1.0, 3.0], [], None, 0) == [
        Point(8, 1.0),
        Point(8, 3.0),
        Point(16, 1.0),
        Point(16, 3.0),
    ]
    assert points([], [], [], None, 0) == [Point()]


def test_fewer_trials_are_drawn_by_the_seed_each_once():
    drawn = points([1, 2, 3], [1.0, 2.0], [1, 2], 5, seed=4)
    assert len(set(drawn)) == 5
    assert drawn == points([1, 2, 3], [1.0, 2.0], [1, 2], 5, seed=4)
    assert drawn != points([1, 2, 3], [1.0, 2.0], [1, 2], 5, seed=5)
    assert len(points([1], [1.0], [], 9, seed=0)) == 1


def test_a_search_has_a_limit():
    with pytest.raises(InvalidRequest, match="1 to 32 trials"):
        points(range(1, 10), [1.0, 2.0], [1, 2], None, 0)
    with pytest.raises(InvalidRequest):
        points([1], [1.0], [], 0, 0)


def test_one_in_three_goes_on_until_one_is_left():
    assert rungs(1) == []
    assert rungs(3) == [Rung(1 / 3, 1)]
    assert rungs(9) == [Rung(1 / 9, 3), Rung(1 / 3, 1)]
    assert rungs(10) == [Rung(1 / 27, 4), Rung(1 / 9, 2), Rung(1 / 3, 1)]
    for count in range(2, 33):
        assert rungs(count)[-1] == Rung(1 / 3, 1)


def test_nothing_is_decided_before_all_are_there():
    ladder = rungs(3)
    there = [Standing(1, 0.4, 2.0), Standing(2, 0.4, 1.0), Standing(3, 0.2, None)]
    assert judge(ladder, 0, there) is None
    there[2] = Standing(3, 0.2, None, over=True)
    assert judge(ladder, 0, there) == {1: "stop", 2: "go", 3: "stop"}


def test_of_equals_the_first_goes_on():
    assert judge(rungs(2), 0, [Standing(2, 1, 1.0), Standing(1, 1, 1.0)]) == {1: "go", 2: "stop"}


def test_who_is_far_ahead_waits():
    ladder = rungs(9)
    assert hold_at(ladder, 0) == pytest.approx(2 / 9)
    assert hold_at(ladder, 1) == pytest.approx(2 / 3)
    assert not holds(ladder, 0, Standing(1, 0.2, 1.0))
    assert holds(ladder, 0, Standing(1, 0.3, 1.0))
    assert not holds(ladder, 0, Standing(1, 0.3, None))
    assert not holds(ladder, 2, Standing(1, 0.9, 1.0))
