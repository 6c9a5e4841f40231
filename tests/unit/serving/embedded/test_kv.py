"""The cache keeps every sequence's values through growth, moves and departures, nothing of the departed."""

from __future__ import annotations

import random

import pytest
import torch

from graftwork.serving.embedded.kv import SMALLEST, KVCache, KVShape, Lane, StateShape, capacity_for

SHAPE = KVShape(layers=2, heads=1, dim=2, dtype=torch.float32, device=torch.device("cpu"))


def _write(lane: Lane, value: float, count: int) -> None:
    for index, layer in enumerate(lane.slab.layers):
        layer[:, lane.row, :, lane.length : lane.length + count] = value + index
    lane.length += count
    lane.dirty = lane.length


def _intact(lane: Lane, value: float) -> bool:
    return all(
        bool((layer[:, lane.row, :, : lane.length] == value + index).all())
        and bool((layer[:, lane.row, :, lane.length :] == 0).all())
        for index, layer in enumerate(lane.slab.layers)
    )


@pytest.mark.parametrize("seed", range(5))
def test_values_survive_everything_that_happens_to_others(seed: int) -> None:
    numbers = random.Random(seed)
    cache = KVCache(SHAPE)
    lanes: dict[Lane, float] = {}
    for step in range(300):
        act = numbers.random()
        if act < 0.3 or not lanes:
            lane = cache.open(numbers.randrange(1, 200))
            lanes[lane] = float(step + 1)
        elif act < 0.5:
            lane = numbers.choice(list(lanes))
            cache.close(lane)
            del lanes[lane]
        else:
            lane = numbers.choice(list(lanes))
            count = numbers.randrange(1, 90)
            cache.reserve(lane, lane.length + count)
            _write(lane, lanes[lane], count)
        assert all(_intact(lane, value) for lane, value in lanes.items())
    for lane in list(lanes):
        cache.close(lane)
    assert all(not slab.lanes and slab.layers[0].numel() == 0 for slab in cache._slabs.values())


def test_rows_stay_compact() -> None:
    cache = KVCache(SHAPE)
    lanes = [cache.open(10) for _ in range(5)]
    cache.close(lanes[1])
    cache.close(lanes[0])
    slab = lanes[2].slab
    assert [lane.row for lane in slab.lanes] == [0, 1, 2]
    assert set(slab.lanes) == set(lanes[2:])


def test_what_a_broken_iteration_wrote_is_wiped() -> None:
    """NaN beyond the length that counts must not meet the next sequence in the row."""
    cache = KVCache(SHAPE)
    keeper, broken = cache.open(10), cache.open(10)
    broken.dirty = 7
    for layer in broken.slab.layers:
        layer[:, broken.row, :, :7] = float("nan")
    cache.close(broken)
    _write(keeper, 3.0, 4)
    after = cache.open(10)
    assert all(bool((layer[:, after.row] == 0).all()) for layer in after.slab.layers)
    assert _intact(keeper, 3.0)


@pytest.mark.parametrize(
    ("tokens", "capacity"), [(1, SMALLEST), (SMALLEST, SMALLEST), (SMALLEST + 1, 2 * SMALLEST), (1000, 1024)]
)
def test_capacities_are_powers_of_two(tokens: int, capacity: int) -> None:
    assert capacity_for(tokens) == capacity


def test_bytes_of_a_token() -> None:
    assert SHAPE.bytes_per_token == 2 * 2 * 1 * 2 * 4


def test_states_survive_growth_and_begin_at_zero() -> None:
    shape = StateShape(
        layers=2, recent=(3, 2), matrix=(1, 2, 2), dtype=torch.float32, device=torch.device("cpu")
    )
    assert shape.bytes_per_sequence == 2 * (3 * 2 + 2 * 2) * 4
    numbers = random.Random(3)
    cache = KVCache(SHAPE, shape)
    states = cache.states
    assert states is not None
    lanes: dict[Lane, float] = {}
    for step in range(200):
        if numbers.random() < 0.6 or not lanes:
            lane = cache.open(numbers.randrange(1, 200))
            assert all(bool((t[lane.state] == 0).all()) for t in (*states.recent, *states.matrix))
            lanes[lane] = float(step + 1)
            for tensor in (*states.recent, *states.matrix):
                tensor[lane.state] = lanes[lane]
        else:
            lane = numbers.choice(list(lanes))
            cache.close(lane)
            del lanes[lane]
        assert len({lane.state for lane in lanes}) == len(lanes)
        for lane, value in lanes.items():
            assert all(bool((t[lane.state] == value).all()) for t in (*states.recent, *states.matrix))
    for lane in list(lanes):
        cache.close(lane)
    assert states.matrix[0].numel() == 0
