"""The engine's answers are those of plain transformers and PEFT, whatever the company in the batch."""

from __future__ import annotations

import random

import pytest
import torch
from tinyserving import Collector, ask, client_of, engine, plain_greedy, plain_logprobs, plain_model

from graftwork.serving.embedded.engine import EmbeddedBackend
from graftwork.serving.wire.backend import Sampling, Work


def _works(models: list[str], seed: int) -> list[Work]:
    numbers = random.Random(seed)
    works = []
    for model in models:
        prompt = [numbers.randrange(3, 400) for _ in range(numbers.randrange(1, 150))]
        how = Sampling(
            max_tokens=numbers.randrange(1, 60),
            temperature=0,
            top_logprobs=0,
            ignore_eos=True,
            prompt_logprobs=numbers.random() < 0.5,
        )
        works.append(Work(model, prompt, how))
    return works


async def _at_odd_times(backend: EmbeddedBackend, works: list[Work]) -> list[Collector]:
    """Submit one work, and each further one after a random number of steps of those before it."""
    numbers = random.Random(5)
    collectors: list[Collector] = []

    def submit_next() -> None:
        collector = Collector(on_step)
        collectors.append(collector)
        backend.submit(works[len(collectors) - 1], collector)

    def on_step() -> None:
        if len(collectors) < len(works) and numbers.random() < 0.15:
            submit_next()

    submit_next()
    done = 0
    while done < len(works):
        if done == len(collectors):
            submit_next()
        await collectors[done].done.wait()
        done += 1
    return collectors


async def test_greedy_answers_of_a_mixed_batch_are_token_for_token_those_of_peft(world) -> None:
    models = ["base", *world.adapters] * 5
    works = _works(models, seed=3)
    async with engine(world.base, batch_tokens=64, max_running=7) as backend:
        for name, path in world.adapters.items():
            await backend.load(name, path)
        collectors = await _at_odd_times(backend, works)
    for model in {*models}:
        plain = plain_model(world.base, world.adapters.get(model))
        for work, got in zip(works, collectors, strict=True):
            if work.model == model:
                prompt = list(work.prompt)
                assert got.tokens == plain_greedy(plain, prompt, work.sampling.max_tokens)
                _same_logprobs(plain_logprobs(plain, prompt + got.tokens), work, got)


def _same_logprobs(plain: torch.Tensor, work: Work, got: Collector) -> None:
    prompt = list(work.prompt)
    tokens = prompt + got.tokens
    expected = [plain[i, tokens[i + 1]].item() for i in range(len(tokens) - 1)]
    answered = [token.logprob for token in got.scored]
    assert answered == pytest.approx(expected[len(prompt) - 1 :], abs=1e-4)
    echoed = [token.logprob for step in got.steps for token in step.prompt]
    if work.sampling.prompt_logprobs:
        assert echoed[0] is None
        assert echoed[1:] == pytest.approx(expected[: len(prompt) - 1], abs=1e-4)


async def test_the_models_give_different_answers(world) -> None:
    """Else the comparison above would prove nothing about adapters."""
    prompt = [7, 8, 9, 10]
    answers = {
        model: tuple(plain_greedy(plain_model(world.base, path), prompt, 12))
        for model, path in {"base": None, **world.adapters}.items()
    }
    assert len(set(answers.values())) == len(answers)


async def test_score_is_the_plain_forward(world) -> None:
    tokens = [random.Random(2).randrange(3, 400) for _ in range(200)]
    async with engine(world.base, batch_tokens=48) as backend, client_of(backend) as client:
        await backend.load("every", world.adapters["every"])
        for model in ("base", "every"):
            plain = plain_logprobs(plain_model(world.base, world.adapters.get(model)), tokens)
            got = await client.score(model, tokens)
            assert got[0] is None
            expected = [plain[i, token].item() for i, token in enumerate(tokens[1:])]
            assert got[1:] == pytest.approx(expected, abs=1e-4)


async def test_top_logprobs_are_the_likeliest_tokens(qwen) -> None:
    prompt = [5, 6, 7]
    async with engine(qwen.base) as backend:
        how = Sampling(max_tokens=1, temperature=0, top_logprobs=5, ignore_eos=True)
        got = (await ask(backend, Work("base", prompt, how))).scored[0]
    values, ids = plain_logprobs(plain_model(qwen.base, None), prompt)[-1].topk(5)
    assert [token for token, _ in got.top] == ids.tolist()
    assert [value for _, value in got.top] == pytest.approx(values.tolist(), abs=1e-4)
    assert got.id == ids[0]


async def test_same_seed_same_answer_alone_and_in_company(qwen) -> None:
    works = [
        Work(
            model, [9, 8, 7], Sampling(max_tokens=30, temperature=1.2, top_p=0.9, seed=seed, ignore_eos=True)
        )
        for seed, model in enumerate(["base", *qwen.adapters])
    ]
    async with engine(qwen.base) as backend:
        for name, path in qwen.adapters.items():
            await backend.load(name, path)
        alone = [(await ask(backend, work)).tokens for work in works]
        together = [c.tokens for c in await _at_odd_times(backend, works * 3)]
        other = Work("base", [9, 8, 7], Sampling(max_tokens=30, temperature=1.2, seed=77, ignore_eos=True))
        assert (await ask(backend, other)).tokens != alone[0]
    assert together == alone * 3
