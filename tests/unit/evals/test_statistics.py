import math
import random
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graftwork.evals.statistics import (
    expanded_tail,
    loss_difference,
    mcnemar,
    quantile,
    student_t,
    wilson,
)


@pytest.mark.parametrize(
    ("probability", "freedom", "value"),
    [  # from printed tables
        (0.95, 1, 6.314),
        (0.95, 2, 2.920),
        (0.95, 3, 2.353),
        (0.95, 4, 2.132),
        (0.975, 4, 2.776),
        (0.95, 9, 1.833),
        (0.975, 9, 2.262),
        (0.99, 19, 2.539),
        (0.95, 1000, 1.646),
        (0.5, 7, 0.0),
    ],
)
def test_students_t_is_the_tables(probability, freedom, value):
    assert student_t(probability, freedom) == pytest.approx(value, rel=0.01, abs=1e-9)
    assert student_t(1 - probability, freedom) == pytest.approx(-value, rel=0.01, abs=1e-9)


def test_the_expanded_tail_is_hesterbergs():
    # Phi(-sqrt(n/(n-1)) t) by hand, with t = 2.776, 2.262, 2.093 and 1.984 of the printed table
    for rows, tail in ((5, 0.00095), (10, 0.00856), (20, 0.01588), (100, 0.02308)):
        assert expanded_tail(0.975, rows) == pytest.approx(tail, rel=0.02)


def test_quantiles_lie_between_neighbours():
    assert quantile([0.0, 1.0, 2.0, 3.0], 0.5) == 1.5
    assert quantile([0.0, 1.0], 0.0) == 0.0
    assert quantile([0.0, 1.0], 1.0) == 1.0
    assert quantile([7.0], 0.3) == 7.0


def test_the_loss_difference_is_weighted_by_tokens():
    new, old, tokens = [10.0, 1.0], [20.0, 1.0], [10, 1]
    assert loss_difference(new, old, tokens).estimate == pytest.approx(-10 / 11)


def test_the_same_seed_gives_the_same_bounds_and_no_difference_has_none():
    new, old, tokens = [1.0, 2.5, 3.0, 4.0], [2.0, 2.0, 2.0, 9.0], [3, 4, 5, 6]
    assert loss_difference(new, old, tokens, seed=5) == loss_difference(new, old, tokens, seed=5)
    assert loss_difference(new, old, tokens, seed=5) != loss_difference(new, old, tokens, seed=6)
    same = loss_difference(old, old, tokens)
    assert (same.estimate, same.low, same.high) == (0.0, 0.0, 0.0)


def test_a_constant_gain_is_certain():
    tokens = [5] * 20
    interval = loss_difference([5.0] * 20, [10.0] * 20, tokens)
    assert (interval.estimate, interval.low, interval.high) == pytest.approx((-1.0, -1.0, -1.0))


@pytest.mark.parametrize(
    ("new", "old", "tokens"),
    [([1.0], [1.0], [1]), ([1.0, 1.0], [1.0], [1, 1]), ([0.0, 0.0], [0.0, 0.0], [0, 0])],
)
def test_what_cannot_be_compared_is_an_error(new, old, tokens):
    with pytest.raises(ValueError):
        loss_difference(new, old, tokens)


def test_rows_without_tokens_do_no_harm():
    interval = loss_difference([5.0, 0.0, 6.0], [10.0, 0.0, 12.0], [5, 0, 6], resamples=500)
    assert interval.high == pytest.approx(-1.0)


def test_two_hundred_rows_take_less_than_a_second():
    rng = random.Random(1)
    new, old = ([rng.gauss(20, 5) for _ in range(200)] for _ in range(2))
    start = time.process_time()
    loss_difference(new, old, [10] * 200)
    assert time.process_time() - start < 1.0


def rejections(rows, trials, shift, skewed):
    """How often one of two models with a true difference of ``shift`` a token is called better."""
    rng = random.Random(rows * 1000 + skewed)
    found = 0
    for trial in range(trials):
        tokens = [rng.randint(3, 40) for _ in range(rows)]
        noise = [(rng.expovariate(1) - 1 if skewed else rng.gauss(0, 1)) for _ in tokens]
        new = [t * (shift + n) for t, n in zip(tokens, noise, strict=True)]
        interval = loss_difference(new, [0.0] * rows, tokens, resamples=300, seed=trial)
        found += interval.high < 0
    return found / trials


@pytest.mark.parametrize(("rows", "bound"), [(10, 0.085), (40, 0.075)])
def test_chance_is_called_better_about_as_rarely_as_promised(rows, bound):
    """Type-I error of the one-sided 95 % test; the bounds are 5 % and three standard errors of 400 trials,
    and what a ratio of so few rows costs."""
    assert rejections(rows, 400, shift=0.0, skewed=False) <= bound


def test_a_skewed_difference_is_not_called_better_wildly_more_often():
    # A long tail of large losses makes every mean of few rows look too good; known of all such intervals.
    assert rejections(40, 300, shift=0.0, skewed=True) <= 0.12


def test_a_true_gain_is_found():
    assert rejections(40, 50, shift=-0.8, skewed=False) >= 0.95


def test_mcnemar_is_the_exact_binomial():
    new = [True] * 8 + [False] * 2 + [True] * 20 + [False] * 5
    old = [False] * 8 + [True] * 2 + [True] * 20 + [False] * 5
    found = mcnemar(new, old)
    assert (found.gained, found.lost) == (8, 2)
    assert found.p_differs == pytest.approx(0.109375)  # binom.test(8, 10)$p.value
    assert found.p_worse == pytest.approx(1013 / 1024)
    assert mcnemar(old, new).p_worse == pytest.approx(0.0546875)  # binom.test(8, 10, alternative="greater")


def test_mcnemar_of_equals_is_one_and_of_other_lengths_an_error():
    assert mcnemar([], []).p_differs == 1.0
    same = mcnemar([True, False], [True, False])
    assert (same.p_worse, same.p_differs) == (1.0, 1.0)
    with pytest.raises(ValueError):
        mcnemar([True], [])


def test_mcnemar_of_many_rows_does_not_overflow():
    assert mcnemar([False] * 3000, [True] * 3000).p_worse < 1e-300


@given(st.lists(st.tuples(st.booleans(), st.booleans()), max_size=60))
def test_mcnemars_chances_are_chances(pairs):
    new, old = [a for a, _ in pairs], [b for _, b in pairs]
    forth, back = mcnemar(new, old), mcnemar(old, new)
    assert 0 < forth.p_worse <= 1 and 0 < forth.p_differs <= 1
    assert (forth.gained, forth.lost, forth.p_differs) == (back.lost, back.gained, back.p_differs)
    assert forth.p_worse + back.p_worse >= 1  # both tails hold the observation itself


@pytest.mark.parametrize(
    ("successes", "trials", "low", "high"),
    [  # prop.test(x, n, correct = FALSE)$conf.int
        (0, 10, 0.0, 0.2775),
        (10, 10, 0.7225, 1.0),
        (5, 10, 0.2366, 0.7634),
        (45, 50, 0.7864, 0.9565),
        (0, 0, 0.0, 1.0),
    ],
)
def test_wilsons_interval(successes, trials, low, high):
    assert wilson(successes, trials) == pytest.approx((low, high), abs=1e-4)


@settings(max_examples=40)
@given(st.integers(1, 200), st.data())
def test_wilsons_interval_holds_the_share(trials, data):
    successes = data.draw(st.integers(0, trials))
    low, high = wilson(successes, trials)
    assert 0 <= low <= successes / trials <= high <= 1
    assert math.isclose(wilson(trials - successes, trials)[0], 1 - high, abs_tol=1e-12)
