"""Admission is fair and bounded; an iteration takes every decoding sequence and chunks of the others."""

from __future__ import annotations

import random

import torch

from graftwork.serving.embedded.kv import KVCache, KVShape
from graftwork.serving.embedded.scheduler import Limits, Scheduler, Sequence
from graftwork.serving.wire.backend import Sampling

SHAPE = KVShape(layers=1, heads=1, dim=1, dtype=torch.float32, device=torch.device("cpu"))


def _scheduler(**limits: int) -> Scheduler:
    return Scheduler(Limits(**limits), KVCache(SHAPE))


def _sequence(model: str, prompt: int = 10, answer: int = 10) -> Sequence:
    return Sequence(
        model=model,
        adapter=None,
        tokens=list(range(prompt)),
        prompt=prompt,
        sampling=Sampling(max_tokens=answer),
        chance=random.Random(0),
        sink=lambda step: None,
    )


def _advance(scheduler: Scheduler) -> list[tuple[str, int, bool]]:
    """One pretended iteration, a token drawn where the prompt is done: (model, tokens, decode) of each."""
    plan = scheduler.plan()
    for segment, sequence in plan:
        segment.lane.length += len(segment.tokens)
        segment.lane.dirty = segment.lane.length
        if sequence.computed == len(sequence.tokens):
            sequence.tokens.append(0)
    return [(sequence.model, len(segment.tokens), segment.decode) for segment, sequence in plan]


def test_lines_take_turns() -> None:
    scheduler = _scheduler(max_running=3)
    for model in "aaaabbc":
        scheduler.add(_sequence(model))
    order = []
    while scheduler.waiting:
        admitted = scheduler.admit()
        order += [sequence.model for sequence in admitted]
        for sequence in admitted:
            scheduler.finish(sequence)
    assert "".join(order) == "abcabaa"


def test_room_is_kept_for_the_answer_and_nobody_overtakes() -> None:
    scheduler = _scheduler(kv_tokens=100)
    small, large, late = _sequence("a", 10, 50), _sequence("a", 10, 80), _sequence("a", 1, 1)
    for sequence in (small, large, late):
        scheduler.add(sequence)
    assert scheduler.admit() == [small]
    assert scheduler.reserved == 60
    assert scheduler.admit() == []
    scheduler.finish(small)
    assert scheduler.admit() == [large, late]
    assert scheduler.waiting == 0


def test_a_line_of_another_model_does_not_overtake_a_blocked_head_either() -> None:
    scheduler = _scheduler(kv_tokens=100)
    first, blocked, other = _sequence("a", 10, 50), _sequence("b", 10, 80), _sequence("c", 1, 1)
    for sequence in (first, blocked, other):
        scheduler.add(sequence)
    assert scheduler.admit() == [first]
    scheduler.finish(first)
    assert scheduler.admit()[0] is blocked


def test_answers_that_outgrow_the_cache_step_back_newest_first_and_all_come_to_an_end() -> None:
    scheduler = _scheduler(kv_tokens=100, headroom=10)
    sequences = [_sequence(model, 10, 90) for model in "abcde"]
    for sequence in sequences:
        scheduler.add(sequence)
    ended: list[str] = []
    while scheduler.busy:
        scheduler.admit()
        assert scheduler.running
        _advance(scheduler)
        assert scheduler.reserved == sum(s.reserved for s in scheduler.running) <= 100
        assert all(len(s.tokens) <= s.reserved + 1 for s in scheduler.running)
        for sequence in [s for s in scheduler.running if s.generated >= 90]:
            ended.append(sequence.model)
            scheduler.finish(sequence)
    assert ended[0] == "a"
    assert sorted(ended) == list("abcde")
    assert sequences[0].returns == 0
    assert sum(s.returns for s in sequences) > 0


def test_prompts_come_in_chunks_beside_decoding() -> None:
    scheduler = _scheduler(batch_tokens=12, max_running=4)
    scheduler.add(_sequence("a", 5))
    scheduler.admit()
    assert _advance(scheduler) == [("a", 5, False)]
    scheduler.add(_sequence("b", 23))
    scheduler.add(_sequence("c", 4))
    scheduler.admit()
    assert _advance(scheduler) == [("a", 1, True), ("b", 9, False)]
    assert _advance(scheduler) == [("a", 1, True), ("b", 9, False)]
    assert _advance(scheduler) == [("a", 1, True), ("b", 5, False), ("c", 4, False)]
    assert sorted(_advance(scheduler)) == [("a", 1, True), ("b", 1, True), ("c", 1, True)]


def test_a_full_batch_still_moves_a_prompt_forward() -> None:
    scheduler = _scheduler(batch_tokens=2, max_running=4)
    for model in "abc":
        scheduler.add(_sequence(model, 1, 50))
    scheduler.admit()
    for _ in range(4):
        _advance(scheduler)
    scheduler.add(_sequence("long", 3))
    scheduler.admit()
    assert ("long", 1, False) in _advance(scheduler)


def test_decoding_rows_of_a_slab_stand_side_by_side() -> None:
    scheduler = _scheduler(batch_tokens=10_000)
    for index in range(12):
        scheduler.add(_sequence("a", 30 + 40 * (index % 3), 300))
    scheduler.admit()
    for _ in range(80):
        plan = scheduler.plan()
        places = [(s.lane.slab.capacity, s.lane.row) for s, _ in plan if s.decode]
        assert places == sorted(places)
        for segment, sequence in plan:
            segment.lane.length += len(segment.tokens)
            sequence.tokens.append(0)


def test_the_cancelled_leave_both_queue_and_batch() -> None:
    scheduler = _scheduler(max_running=1)
    running, waiting = _sequence("a"), _sequence("b")
    scheduler.add(running)
    scheduler.add(waiting)
    scheduler.admit()
    scheduler.plan()
    running.cancel()
    waiting.cancel()
    scheduler.drop_cancelled()
    assert not scheduler.busy
    assert scheduler.reserved == 0
    assert running.lane is None
