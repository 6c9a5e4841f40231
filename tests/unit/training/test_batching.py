"""Order and batches: every row once an epoch, from the seed alone, with little padding."""

from hypothesis import given
from hypothesis import strategies as st
from tinytraining import make_schedule

from graftwork.training.batching import Course, epoch_batches, evaluation_batches, micro_batches

LENGTHS = st.lists(st.integers(1, 300), min_size=1, max_size=200)


@given(LENGTHS, st.integers(1, 20), st.integers(0, 2**31), st.integers(0, 3))
def test_an_epoch_has_every_row_once_in_full_batches(lengths, size, seed, epoch):
    batches = epoch_batches(lengths, size, seed, epoch)
    assert sorted(row for batch in batches for row in batch) == list(range(len(lengths)))
    assert len(batches) == -(-len(lengths) // size)
    assert sorted(len(batch) for batch in batches)[1:] == [size] * (len(batches) - 1)


@given(LENGTHS, st.integers(1, 20), st.integers(1, 30))
def test_micro_batches_keep_the_rows_and_are_never_empty(lengths, size, parts):
    batch = epoch_batches(lengths, size, 0, 0)[0]
    split = micro_batches(batch, parts)
    assert [row for part in split for row in part] == batch
    assert len(split) == min(parts, len(batch))
    assert max(map(len, split)) - min(map(len, split)) <= 1


@given(LENGTHS, st.integers(1, 8), st.integers(1, 500))
def test_evaluation_sees_every_row_within_its_limits(lengths, rows, tokens):
    batches = evaluation_batches(lengths, rows, tokens)
    assert sorted(row for batch in batches for row in batch) == list(range(len(lengths)))
    for batch in batches:
        assert len(batch) <= rows
        assert len(batch) == 1 or len(batch) * max(lengths[row] for row in batch) <= tokens


def test_the_order_follows_from_seed_and_epoch():
    lengths = list(range(1, 100))
    assert epoch_batches(lengths, 8, 1, 0) == epoch_batches(lengths, 8, 1, 0)
    assert epoch_batches(lengths, 8, 1, 0) != epoch_batches(lengths, 8, 1, 1)
    assert epoch_batches(lengths, 8, 1, 0) != epoch_batches(lengths, 8, 2, 0)


def test_buckets_pad_far_less_than_random_batches_and_come_in_no_order_of_length():
    lengths = [10 + (row * 7919) % 190 for row in range(1000)]
    batches = epoch_batches(lengths, 8, 3, 0)
    padding = sum(len(batch) * max(lengths[row] for row in batch) for batch in batches) / sum(lengths) - 1
    shuffled = [(row * 7) % 1000 for row in range(1000)]
    blind = [shuffled[at : at + 8] for at in range(0, 1000, 8)]
    assert padding < 0.1
    assert sum(len(batch) * max(lengths[row] for row in batch) for batch in blind) / sum(lengths) - 1 > 0.5
    longest = [max(lengths[row] for row in batch) for batch in batches]
    assert longest != sorted(longest)
    assert abs(sum(longest[:60]) / 60 - sum(longest[-60:]) / 60) < 25


def test_even_a_small_set_has_new_batches_every_epoch():
    lengths = [60 + row % 20 for row in range(32)]
    first, second = ({frozenset(batch) for batch in epoch_batches(lengths, 8, 42, epoch)} for epoch in (0, 1))
    assert not first & second


def test_a_course_counts_steps_and_tokens_over_its_epochs():
    lengths = [3, 5, 7, 9, 11]
    course = Course(lengths, make_schedule(n_epochs=3, batch_size=2), seed=1)
    assert (course.steps_per_epoch, course.total_steps) == (3, 9)
    assert sum(course.tokens(step) for step in range(9)) == 3 * sum(lengths)
    assert course.rows(4) == Course(lengths, make_schedule(n_epochs=3, batch_size=2), seed=1).rows(4)
    assert len({course.dropout_seed(step) for step in range(9)}) == 9
