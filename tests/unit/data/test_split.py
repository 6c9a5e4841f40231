"""The held-out part: deterministic, of the asked size, sharing no row with the rest."""

from hypothesis import given
from hypothesis import strategies as st

from graftwork.data import fingerprint, measure, split
from graftwork.data.rows import loose_fingerprint


def texts(count):
    return [{"text": f"row {number}"} for number in range(count)]


@given(st.integers(2, 200), st.floats(0.01, 0.49), st.integers(0, 2**31))
def test_sizes_and_no_loss(count, share, seed):
    rows = texts(count)
    train, held = split(rows, share, seed)
    assert len(held) == max(1, round(share * count))
    assert sorted(map(fingerprint, train + held)) == sorted(map(fingerprint, rows))
    assert (train, held) == split(rows, share, seed)


@given(
    st.lists(st.sampled_from(["a", "A ", " a", "b", "B", "c", "d"]), min_size=2, max_size=60),
    st.integers(0, 99),
)
def test_equal_rows_stay_together(words, seed):
    rows = [{"text": word} for word in words]
    train, held = split(rows, 0.3, seed)
    assert not {loose_fingerprint(row) for row in train} & {loose_fingerprint(row) for row in held}
    assert len(train) + len(held) == len(rows)
    assert train


def test_order_of_the_file_does_not_matter_but_the_seed_does():
    rows = texts(100)
    held = split(rows, 0.2, 1)[1]
    assert sorted(map(fingerprint, split(rows[::-1], 0.2, 1)[1])) == sorted(map(fingerprint, held))
    assert held != split(rows, 0.2, 2)[1]


def test_nothing_is_held_out_where_nothing_can_be():
    assert split(texts(5), 0, 0) == (texts(5), [])
    assert split([{"text": "a"}, {"text": "A"}], 0.4, 0) == ([{"text": "a"}, {"text": "A"}], [])


def test_parts_are_measured(renderer):
    rows = texts(20)
    train, held = split(rows, 0.25, 3)
    whole, parts = measure(rows, renderer, 3), (measure(train, renderer, 3), measure(held, renderer, 3))
    assert whole.tokens == sum(part.tokens for part in parts) == 60
    assert whole.over_length == 20 and whole.longest > 3
