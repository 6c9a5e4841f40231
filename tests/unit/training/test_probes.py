"""Probes: a few rows, cheap, with both sides' log-probabilities."""

import pytest
import torch
from tinytraining import chat, make_rows

from graftwork.core.specs import LoraSpec
from graftwork.training.probes import ANSWER, COUNT, Prober, choose


def test_rows_are_spread_over_the_set_and_answers_are_cut(renderer):
    rows = [renderer.encode(row) for row in make_rows(100)]
    chosen = choose(rows)
    assert len(chosen) == COUNT
    assert chosen[0][0] == rows[0].tokens
    assert chosen[-1][0] == rows[87].tokens
    long = renderer.encode(chat("red", "cat " * 200))
    ((tokens, start),) = choose([long])
    assert len(tokens) == start + ANSWER


def test_short_rows_are_preferred_but_long_ones_do(renderer):
    long, short = renderer.encode(chat("dog " * 600, "red")), renderer.encode(chat("dog", "red"))
    assert [tokens for tokens, _ in choose([long, short, long])] == [short.tokens]
    assert len(choose([long])) == 1


def test_an_answer_starts_after_the_prompt(renderer):
    row = chat("red dog", "blue")
    tokens, start = choose([renderer.encode(row)])[0]
    prompt = renderer.tokenize(renderer.render_prompt(row["messages"][:1]))
    assert tokens[:start] == prompt


def test_probes_tell_the_adapter_from_the_base(engine, renderer):
    adapter = engine.add(LoraSpec(rank=4, alpha=8), 1)
    prober = Prober(engine, [renderer.encode(row) for row in make_rows(10)])
    for probe in prober.take(adapter):
        assert probe.logprobs == probe.base_logprobs  # B is zero
    adapter.weights.copy_(torch.randn(adapter.weights.shape, generator=torch.Generator().manual_seed(1)))
    for probe in prober.take(adapter):
        assert len(probe.logprobs) == len(probe.base_logprobs) == len(probe.tokens) - probe.start
        assert probe.logprobs != pytest.approx(probe.base_logprobs, abs=0.1)
        assert probe.base_logprobs == engine.logprobs(None, probe.tokens, probe.start)
