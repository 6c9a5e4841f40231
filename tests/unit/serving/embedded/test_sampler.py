"""Draws follow the distribution that was asked for, and the seed alone."""

from __future__ import annotations

import math
import random
from collections import Counter

import pytest
import torch

from graftwork.serving.embedded.sampler import draw, finite, score
from graftwork.serving.wire.backend import Sampling

LOGITS = torch.log(torch.tensor([[0.1, 0.4, 0.2, 0.3]]))


def _frequencies(how: Sampling, count: int = 4000) -> list[float]:
    generator = random.Random(0)
    seen = Counter(draw(LOGITS, [how], [generator])[0] for _ in range(count))
    return [seen[token] / count for token in range(4)]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, [0.1, 0.4, 0.2, 0.3]),
        ({"top_k": 2}, [0, 4 / 7, 0, 3 / 7]),
        ({"top_k": 9}, [0.1, 0.4, 0.2, 0.3]),
        ({"top_p": 0.65}, [0, 4 / 7, 0, 3 / 7]),
        ({"top_p": 0.75}, [0, 4 / 9, 2 / 9, 3 / 9]),
        ({"top_p": 0.01}, [0, 1, 0, 0]),
        ({"top_p": 0.3, "top_k": 2}, [0, 1, 0, 0]),
        ({"temperature": 0.5}, [1 / 30, 16 / 30, 4 / 30, 9 / 30]),
        ({"temperature": 0.001}, [0, 1, 0, 0]),
        ({"temperature": 0}, [0, 1, 0, 0]),
    ],
)
def test_frequencies(options: dict, expected: list[float]) -> None:
    how = Sampling(max_tokens=1, **options)
    assert _frequencies(how) == pytest.approx(expected, abs=0.03)


def test_rows_do_not_disturb_each_other() -> None:
    wide = torch.randn(5, 50, generator=torch.Generator().manual_seed(1))
    how = [Sampling(max_tokens=1, temperature=t) for t in (0.5, 0, 1, 2, 0)]
    together = draw(wide, how, [random.Random(seed) for seed in range(5)])
    alone = [draw(wide[i : i + 1], [how[i]], [random.Random(i)])[0] for i in range(5)]
    assert together == alone
    assert together[1] == int(wide[1].argmax())


def test_greedy_takes_no_number() -> None:
    generator = random.Random(3)
    draw(LOGITS, [Sampling(max_tokens=1, temperature=0)], [generator])
    assert generator.random() == random.Random(3).random()


def test_the_last_place_is_reached_and_not_passed() -> None:
    class AlmostOne(random.Random):
        def random(self) -> float:
            return math.nextafter(1.0, 0.0)

    assert draw(LOGITS, [Sampling(max_tokens=1)], [AlmostOne()]) == [3]
    assert draw(LOGITS, [Sampling(max_tokens=1, top_k=1)], [AlmostOne()]) == [1]


def test_finite_sees_each_row() -> None:
    rows = torch.zeros(4, 3)
    rows[1, 2], rows[3, 0] = float("nan"), float("-inf")
    assert finite(rows) == [True, False, True, False]


def test_score() -> None:
    logits = torch.cat([LOGITS, LOGITS + 5])
    first, second = score(logits, [0, 1], [0, 2])
    assert (first.id, first.top) == (0, ())
    assert first.logprob == pytest.approx(math.log(0.1), abs=1e-5)
    assert [token for token, _ in second.top] == [1, 3]
    assert second.top[0][1] == pytest.approx(math.log(0.4), abs=1e-5)
