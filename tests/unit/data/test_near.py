"""Near duplicates: found, never invented, and without comparing each with each."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graftwork.data import near
from graftwork.data.near import Index, near_duplicates, near_groups, similarity, text_of

WORDS = [f"{a}{b}{c}" for a in "bdfgklmnprst" for b in "aeiou" for c in ("n", "rk", "st", "lla")]


def texts(count, words=40, seed=1):
    draw = random.Random(seed)
    return [" ".join(draw.choice(WORDS) for _ in range(words)) for _ in range(count)]


def altered(text, words, seed=2):
    draw, parts = random.Random(seed), text.split()
    for place in draw.sample(range(len(parts)), words):
        parts[place] = draw.choice(WORDS)
    return " ".join(parts)


def test_a_row_is_compared_by_what_is_asked_and_answered():
    row = {
        "messages": [
            {"role": "system", "content": "You are the long prompt of every row."},
            {"role": "user", "content": "My  ROUTER\nis down"},
            {"role": "assistant", "content": "network"},
        ],
        "tools": [{"type": "function", "function": {"name": "f", "description": "long"}}],
    }
    assert text_of(row) == "my router is down network"
    assert text_of({"prompt": "A", "completion": "B"}) == "a b"
    call = {"id": "c1", "type": "function", "function": {"name": "look", "arguments": '{"q": 1}'}}
    assert text_of({"messages": [{"role": "assistant", "tool_calls": [call]}]}) == 'look {"q": 1}'


def test_altered_rows_are_found_and_others_are_not():
    plain = texts(300)
    copies = [altered(text, 2) for text in plain[:100]]
    found = near_duplicates(plain + copies, 0.75)
    truth = {300 + n for n in range(100) if similarity(plain[n], copies[n]) >= 0.75}
    assert len(truth) > 90
    assert {one.index for one in found} == truth
    assert all(one.of == one.index - 300 for one in found)


@settings(deadline=None, max_examples=60)
@given(st.lists(st.text(max_size=30), max_size=30), st.floats(0.3, 1))
def test_nothing_is_called_near_that_is_not(rows, threshold):
    for one in near_duplicates(rows, threshold):
        assert similarity(rows[one.index], rows[one.of]) >= threshold - 1e-4
    groups = near_groups(rows, threshold)
    assert all(groups[group] == group for group in groups)
    assert all(groups[a] == groups[b] for a in range(len(rows)) for b in range(a) if rows[a] == rows[b])


def test_groups_reach_through_others():
    first = " ".join(WORDS[:60])
    chain = [first]
    for step in range(6):
        parts = chain[-1].split()
        parts[step * 9 : step * 9 + 3] = ["zzz", "yyy", "xxx"]
        chain.append(" ".join(parts))
    assert similarity(chain[0], chain[-1]) < 0.7 < similarity(chain[0], chain[1])
    assert near_groups([*chain, "something else entirely"], 0.7) == [0] * 7 + [7]


def test_short_texts_are_told_apart():
    rows = [f"Where is order {number}?" for number in range(100, 160)]
    assert near_duplicates(rows) == []
    assert [one.of for one in near_duplicates(["yes", "no", "yes"])] == [0]
    assert near_duplicates(["", ""])[0].similarity == 1.0


def test_most_pairs_are_never_compared():
    """A hundred times the pairs, and not a hundred times the comparisons: no n squared."""
    index = Index()
    for number, text in enumerate(texts(600, words=12)):
        assert not list(index.near(text))
        index.add(number, text)
    assert index.compared < 600 * 599 / 2 / 100


def test_the_threshold_is_checked():
    with pytest.raises(ValueError, match="above 0"):
        Index(0)
    with pytest.raises(ValueError, match="at most 1"):
        near_groups(["a"], 1.5)


def test_signatures_are_the_same_everywhere():
    """Signatures must not depend on the process: what is split today is split likewise tomorrow."""
    assert near._signature("the same text, whatever the hash seed")[:3].tolist() == EXPECTED


EXPECTED = [238687446, 110675298, 366934219]
