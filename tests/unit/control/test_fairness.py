"""Whose turn it is."""

from __future__ import annotations

import random
from collections import Counter

from graftwork.control.fairness import Waiting, turns


def keys(order: list[Waiting]) -> list[str]:
    return [one.key for one in order]


def test_within_a_project_it_is_first_come_first_served():
    waiting = [Waiting("b", "p", 5, 2.0), Waiting("c", "p", 1, 3.0), Waiting("a", "p", 9, 1.0)]
    assert keys(turns(waiting, {})) == ["a", "b", "c"]


def test_who_was_given_less_comes_first():
    waiting = [Waiting("old", "rich", 10, 1.0), Waiting("new", "poor", 10, 9.0)]
    assert keys(turns(waiting, {"rich": 1000})) == ["new", "old"]
    assert keys(turns(waiting, {"poor": 1000})) == ["old", "new"]
    assert keys(turns(waiting, {})) == ["old", "new"]


def test_many_jobs_of_one_do_not_hold_up_one_job_of_another():
    flood = [Waiting(f"f{n:02}", "flood", 100, float(n)) for n in range(20)]
    order = keys(turns([*flood, Waiting("mine", "small", 100, 50.0)], {}))
    assert order.index("mine") == 1


def test_weights_are_shares():
    waiting = [
        Waiting(f"{project}{n:03}", project, 10, float(n)) for project in ("one", "three") for n in range(90)
    ]
    first = turns(waiting, {}, {"one": 1.0, "three": 3.0})[:80]
    counts = Counter(one.project for one in first)
    assert counts == {"three": 60, "one": 20}


def test_over_any_prefix_no_project_is_ahead_by_more_than_a_job():
    numbers = random.Random(5)
    waiting = [Waiting(f"{n}", numbers.choice("abc"), numbers.randint(1, 100), float(n)) for n in range(200)]
    given: Counter[str] = Counter()
    left = Counter(one.project for one in waiting)
    for one in turns(waiting, {}):
        others = [given[project] for project in left if left[project] and project != one.project]
        assert all(given[one.project] <= other for other in others)
        given[one.project] += one.tokens
        left[one.project] -= 1


def test_everybody_is_there_once():
    waiting = [Waiting(str(n), str(n % 3), n, 0.0) for n in range(30)]
    assert sorted(keys(turns(waiting, {}))) == sorted(one.key for one in waiting)
    assert turns([], {"a": 1}) == []
