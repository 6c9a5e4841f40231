"""Rows dealt to ranks: each once, evenly, in step; and objectives that do not notice."""

import random

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from graftwork.data.rendering import Encoded
from graftwork.training.distributed.share import Dealt, deal, hand_of
from graftwork.training.engine import ANSWERS, Slopes, Work


def row(length):
    return Encoded(list(range(length)), [False] + [True] * (length - 1), length)


@given(
    lengths=st.lists(st.integers(2, 90), min_size=1, max_size=24),
    ranks=st.integers(1, 5),
    parts=st.integers(1, 6),
)
def test_every_row_once_and_all_ranks_in_step(lengths, ranks, parts):
    rows = [row(length) for length in lengths]
    batches = [part for part in (rows[at::parts] for at in range(parts)) if part]
    shares = deal(batches, ranks)
    order = [row for batch in batches for row in batch]
    assert sorted(e for s in shares if s.counts for e in s.examples) == list(range(len(order)))
    assert len({len(share.batches) for share in shares}) == 1
    assert len(shares[0].batches) <= len(batches)
    for share in shares:
        flat = [row for batch in share.batches for row in batch]
        assert [id(row) for row in flat] == [id(order[index]) for index in share.examples]
        assert all(share.batches)
    assert sum(share.counts for share in shares) == min(ranks, len(rows))


def test_tokens_are_even():
    numbers = random.Random(0)
    rows = [row(numbers.randint(8, 512)) for _ in range(64)]
    tokens = [sum(len(r.tokens) for b in share.batches for r in b) for share in deal([rows], 4)]
    assert max(tokens) < 1.05 * min(tokens)


class Hinge:
    """A pair objective that remembers something of every pair of the work."""

    rows_per_example = 2

    def __init__(self, margins):
        self.margins = torch.tensor(margins)

    def slopes(self, scores, rows, first):
        pairs = scores.view(-1, 2)
        wanted = self.margins[first // 2 : first // 2 + len(pairs)]
        loss = (wanted - (pairs[:, 0] - pairs[:, 1])).square()
        slope = -2 * (wanted - (pairs[:, 0] - pairs[:, 1])) / len(self.margins)
        return Slopes(
            loss.sum(), torch.stack((slope, -slope), 1).flatten(), {"won": (slope < 0).float().sum()}
        )


@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_a_dealt_objective_gives_each_row_the_whole_objectives_slope(ranks):
    rows = [row(3 + 7 * n % 11) for n in range(10)]
    scores = torch.linspace(-3, 2, 10)
    whole = Hinge([0.5, 1.0, 1.5, 2.0, 2.5])
    wanted = whole.slopes(scores, rows, 0)
    found, loss, won = torch.zeros(10), 0.0, 0.0
    for share in deal([rows[:4], rows[4:]], ranks, 2):
        dealt, first = Dealt(whole, share.examples), 0
        places = [place for example in share.examples for place in (2 * example, 2 * example + 1)]
        for batch in share.batches:
            here = places[first : first + len(batch)]
            slopes = dealt.slopes(scores[here], batch, first)
            found[here] += slopes.per_row
            loss, won = loss + float(slopes.loss), won + float(slopes.metrics["won"])
            first += len(batch)
    assert torch.equal(found, wanted.per_row)
    assert (loss, won) == (pytest.approx(float(wanted.loss)), float(wanted.metrics["won"]))


def test_hands_have_dropout_of_their_own():
    rows = [row(4), row(5)]
    hands = [hand_of(Work(None, [rows], seed=3), rank, 2)[0] for rank in range(2)]  # pyright: ignore
    assert hands[0].seed == 3 != hands[1].seed
    assert all(hand.objective is ANSWERS for hand in hands)
