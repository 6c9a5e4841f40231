"""Which runs should train together."""

from __future__ import annotations

from typing import Any

import pytest

from graftwork.core.specs import BaseRef, DataRef, LoraSpec, RunSpec, Schedule
from graftwork.models.company import (
    NO_LOSS,
    PAYS,
    Host,
    Member,
    gain_of,
    kind_of,
    may_join,
    memory,
    together,
    tokens_per_pass,
    why_alone,
)
from graftwork.models.entry import Shape
from graftwork.models.memory import Load
from graftwork.models.steptime import Hardware

GIB = 1 << 30
H100 = Host(Hardware(device="gpu", gpu="H100"), 80 * GIB)


def gpu(memory: int) -> Host:
    return Host(Hardware(device="gpu", gpu="H100"), memory)


def dense(hidden: int, layers: int, intermediate: int, **more: Any) -> Shape:
    return Shape(
        family="qwen3",
        hidden=hidden,
        layers=layers,
        intermediate=intermediate,
        heads=32,
        kv_heads=8,
        head_dim=128,
        vocab=150_000,
        context=32_768,
        tied=True,
        **more,
    )


SMALL = dense(1024, 28, 3072)
EIGHT = dense(4096, 36, 12_288)
LARGE = dense(5120, 64, 25_600)
MIXTURE = dense(2048, 48, 768, experts=128, active_experts=8)


def member(key: str, shape: Shape = SMALL, tokens: int = 256, **more: Any) -> Member:
    given = {"kind": "a", "adapter": GIB // 10, "working": tokens * 100_000, "resident": 2 * GIB}
    load = Load(lora=LoraSpec(), tokens=tokens, labelled=tokens // 2)
    return Member(**{"key": key, "shape": shape, "load": load, "widest": tokens, **given, **more})


def gain(shape: Shape, tokens: int, count: int = 8) -> float:
    return gain_of([member(str(n), shape, tokens) for n in range(count)], H100)


def test_company_pays_for_small_models_short_rows_and_mixtures():
    assert gain(SMALL, 128) > 5
    assert gain(EIGHT, 128) > 2 > PAYS
    assert gain(MIXTURE, 128) > gain(LARGE, 128) * 2
    assert gain(MIXTURE, 512) > PAYS


def test_company_does_not_pay_where_one_run_fills_the_machine():
    assert gain(LARGE, 4096) < NO_LOSS + 0.05 < PAYS
    assert gain(EIGHT, 4096) < PAYS
    for shape in (SMALL, EIGHT, LARGE, MIXTURE):
        longer = [gain(shape, tokens) for tokens in (128, 512, 1024, 4096)]
        assert longer == sorted(longer, reverse=True)
        assert longer[-1] > 0.999


def test_only_runs_of_a_kind_share():
    verdict = may_join(member("b", kind="other"), [member("a")], H100)
    assert (verdict.ok, verdict.why) == (False, "it has another base model, revision or quantization")


def test_a_full_machine_takes_nobody():
    there = [member(str(n)) for n in range(4)]
    assert "4 runs are on the machine" in may_join(member("x"), there, H100, limit=4).why
    tight = gpu(memory([*there, member("x")]) - 1)
    assert "memory does not suffice for 5 runs" in may_join(member("x"), there, tight).why
    assert may_join(member("x"), there, gpu(memory([*there, member("x")]) * 2)).ok


def test_memory_counts_one_base_every_adapter_and_one_micro_batch():
    runs = [member("a", adapter=5, working=7, resident=100), member("b", adapter=3, working=11, resident=90)]
    assert memory(runs) == 100 + 8 + 11
    assert tokens_per_pass(runs, gpu(0)) is None
    wide = [member("a", tokens=10, adapter=0, working=1000, resident=0)]
    assert tokens_per_pass(wide, gpu(5000)) == 50
    assert tokens_per_pass(wide, gpu(10)) == 10, "a micro-batch is never split by it"


def test_a_tight_memory_takes_the_gain_away():
    runs = [member(str(n), tokens=256, adapter=0, working=256 * 10**6, resident=0) for n in range(8)]
    roomy, tight = gpu(10**10), gpu(256 * 10**6)
    assert gain_of(runs, roomy) > 3
    assert gain_of(runs, tight) == pytest.approx(1.0)


def test_groups_keep_the_order_and_say_why():
    runs = [member("a"), member("x", kind="other"), member("b"), member("c"), member("y", kind="other")]
    first, second = together(runs, H100)
    assert (first.keys, second.keys) == (("a", "b", "c"), ("x", "y"))
    assert "times as fast as one after another" in first.why
    assert [group.keys for group in together(runs, H100, limit=1)] == [(run.key,) for run in runs]
    lone = together([member("a", LARGE, 8192), member("b", LARGE, 8192)], gpu(10**15))
    assert [group.keys for group in lone] == [("a",), ("b",)]


def spec(**changes: Any) -> RunSpec:
    schedule = Schedule(
        n_epochs=1,
        batch_size=1,
        accumulation=1,
        learning_rate_multiplier=1,
        learning_rate=1e-3,
        warmup_ratio=0,
        decay="constant",
        weight_decay=0,
        max_grad_norm=1,
        max_length=8,
        eval_every=1,
        checkpoint_every=1,
        early_stopping=None,
        total_steps=1,
    )
    given: dict[str, Any] = {
        "job_id": "j",
        "base": BaseRef(name="n", repository="r", revision="1"),
        "train": DataRef(path="data/train.jsonl", sha256="0", rows=1),
        "valid": None,
        "lora": LoraSpec(),
        "schedule": schedule,
        "seed": 1,
        "code_version": "0",
    }
    return RunSpec(**{**given, **changes})


def test_dora_and_other_trainers_stay_alone():
    assert why_alone(spec()) is None
    assert "DoRA" in (why_alone(spec(lora=LoraSpec(dora=True))) or "")
    assert "the trl trainer" in (why_alone(spec(trainer="trl")) or "")


def test_a_kind_is_base_revision_and_quantization():
    assert kind_of(spec()) == kind_of(spec(lora=LoraSpec(rank=3), seed=9))
    others = [
        spec(base=BaseRef(name="n", repository="r", revision="2")),
        spec(base=BaseRef(name="n", repository="s", revision="1")),
        spec(quantization="nf4"),
    ]
    assert len({kind_of(one) for one in [spec(), *others]}) == 4
