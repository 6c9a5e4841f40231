"""Every architecture the engine serves: greedy answers of a mixed batch are those of transformers + PEFT."""

from __future__ import annotations

import asyncio
import json
import random
import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest
from tinyadapters import TARGETS, everything, load_plain, make_random_adapter, plain_logits
from tinymodels import make_model
from tinyserving import ask, engine, plain_greedy

from graftwork.core.errors import InvalidRequest
from graftwork.serving.wire.backend import Sampling, Work

ARCHITECTURES = (
    "mistral",
    "qwen3_moe",
    "qwen3_next",
    "gpt_oss",
    "gemma3_text",
    "glm4",
    "qwen3",
    "qwen2",
    "llama",
)


@dataclass(frozen=True)
class Zoo:
    """A base model and its adapters by name."""

    base: Path
    adapters: dict[str, Path]


def _zoo(folder: Path, architecture: str) -> Zoo:
    base = make_model(folder / "base", architecture)
    modules, parameters = TARGETS[architecture]
    own = {"expert_rank": 2} if parameters else {}
    adapters = {
        "all": everything(folder / "all", base, architecture, seed=1, size=0.1, **own),
        "stable": everything(
            folder / "stable", base, architecture, seed=2, rank=3, size=0.1, use_rslora=True
        ),
        "some": make_random_adapter(folder / "some", base, modules=modules[-2:], rank=8, seed=3, size=0.2),
    }
    if parameters:
        last = parameters[-1:]
        adapters["one"] = make_random_adapter(
            folder / "one", base, modules=modules[:1], parameters=last, rank=1, seed=4, size=0.3
        )
    return Zoo(base, adapters)


@pytest.fixture(scope="module", params=ARCHITECTURES)
def zoo(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Zoo:
    return _zoo(tmp_path_factory.mktemp(request.param), request.param)


async def test_greedy_answers_of_a_mixed_batch_are_those_of_peft(zoo: Zoo) -> None:
    numbers = random.Random(7)
    works = [
        Work(
            model,
            [numbers.randrange(3, 250) for _ in range(numbers.choice((1, 2, 5, 19, 40, 75)))],
            Sampling(max_tokens=numbers.randrange(3, 14), temperature=0, top_logprobs=0, ignore_eos=True),
        )
        for model in ["base", *zoo.adapters] * 3
    ]
    async with engine(zoo.base, batch_tokens=32, max_running=6) as backend:
        for name, path in zoo.adapters.items():
            await backend.load(name, path)
        answers = await asyncio.gather(*(ask(backend, work) for work in works))
    told = set()
    for model in ("base", *zoo.adapters):
        plain = load_plain(zoo.base, zoo.adapters.get(model))
        told.add(round(plain_logits(plain, [9, 8, 7, 6])[-1].log_softmax(-1)[5].item(), 2))
        for work, got in zip(works, answers, strict=True):
            if work.model != model:
                continue
            prompt = list(work.prompt)
            assert got.tokens == plain_greedy(plain, prompt, work.sampling.max_tokens)
            scores = plain_logits(plain, prompt + got.tokens).log_softmax(-1)[len(prompt) - 1 : -1]
            expected = [scores[i, token].item() for i, token in enumerate(got.tokens)]
            assert [token.logprob for token in got.scored] == pytest.approx(expected, abs=5e-4)
    assert len(told) == len(zoo.adapters) + 1  # else the comparison would prove nothing about adapters


async def test_a_sequence_that_steps_back_begins_its_states_again(tmp_path: Path) -> None:
    zoo = _zoo(tmp_path, "qwen3_next")
    works = [
        Work(model, [5 + i] * 12, Sampling(max_tokens=60, temperature=0, ignore_eos=True))
        for i, model in enumerate(["base", "all", "some"])
    ]
    async with engine(zoo.base, kv_tokens=140, headroom=8, batch_tokens=16) as backend:
        for name, path in zoo.adapters.items():
            await backend.load(name, path)
        answers = await asyncio.gather(*(ask(backend, work) for work in works))
    for work, got in zip(works, answers, strict=True):
        plain = load_plain(zoo.base, zoo.adapters.get(work.model))
        assert got.tokens == plain_greedy(plain, list(work.prompt), 60)


async def test_an_adapter_that_makes_no_numbers_harms_no_other(tmp_path: Path) -> None:
    """Also not through an expert that both are sent to, or the row of states that it leaves."""
    zoo = _zoo(tmp_path, "qwen3_next")
    bad = everything(tmp_path / "bad", zoo.base, "qwen3_next", seed=5, size=1e18)
    how = Sampling(max_tokens=10, temperature=0, ignore_eos=True)
    works = [Work(model, [4, 5, 6, 7, 8], how) for model in ("bad", "all", "bad", "base", "some")]
    async with engine(zoo.base, max_running=3) as backend:
        for name, path in {**zoo.adapters, "bad": bad}.items():
            await backend.load(name, path)
        answers = await asyncio.gather(*(ask(backend, work) for work in works))
    for work, got in zip(works, answers, strict=True):
        if work.model == "bad":
            assert got.steps[-1].error is not None and got.steps[-1].error.code == "not_finite"
        else:
            plain = load_plain(zoo.base, zoo.adapters.get(work.model))
            assert got.tokens == plain_greedy(plain, list(work.prompt), 10)


async def test_what_cannot_be_served_is_refused_with_the_reason(tmp_path: Path) -> None:
    base = make_model(tmp_path / "base", "qwen3_moe")
    async with engine(base) as backend:
        router = make_random_adapter(
            tmp_path / "router", base, modules=("q_proj",), parameters=("mlp.gate.weight",)
        )
        with pytest.raises(InvalidRequest, match=r"no linear module 'model\.layers\.0\.mlp\.gate'"):
            await backend.load("router", router)
        other = make_model(tmp_path / "other", "qwen3_moe", num_experts=4)
        fewer = everything(tmp_path / "fewer", other, "qwen3_moe", rank=3)
        with pytest.raises(InvalidRequest, match="not a rank for each of 8 experts"):
            await backend.load("fewer", fewer)
        dora = make_random_adapter(tmp_path / "dora", base, modules=("q_proj",), use_dora=True)
        with pytest.raises(InvalidRequest, match="merge it into the base"):
            await backend.load("dora", dora)
        spoiled = shutil.copytree(fewer, tmp_path / "spoiled")
        config = json.loads((spoiled / "adapter_config.json").read_text())
        (spoiled / "adapter_config.json").write_text(json.dumps({**config, "target_parameters": None}))
        with pytest.raises(InvalidRequest, match="rank 12, but"):
            await backend.load("spoiled", spoiled)
