"""Adapters that come and go, break or flood, while others are answered."""

from __future__ import annotations

import asyncio

import pytest
from tinyserving import ALL, Collector, ask, engine, make_adapter, plain_greedy, plain_model

from graftwork.core.errors import InvalidRequest, NotFound, Unavailable
from graftwork.serving.wire.backend import Sampling, Work

PROMPT = [20, 30, 40, 50]


def _work(model: str, count: int = 40, prompt: list[int] = PROMPT) -> Work:
    return Work(model, prompt, Sampling(max_tokens=count, temperature=0, ignore_eos=True))


async def test_loading_and_unloading_changes_no_running_answer(qwen, tmp_path) -> None:
    others = [make_adapter(tmp_path / f"n{i}", qwen.base, rank=2 + i, seed=20 + i) for i in range(3)]
    expected = {
        model: plain_greedy(plain_model(qwen.base, path), PROMPT, 80)
        for model, path in {"base": None, **qwen.adapters}.items()
    }
    async with engine(qwen.base) as backend:
        for name, path in qwen.adapters.items():
            await backend.load(name, path)
        collectors = {model: Collector() for model in expected}
        for model, collector in collectors.items():
            backend.submit(_work(model, 80), collector)
        rounds = 0
        while not all(c.done.is_set() for c in collectors.values()):
            for index, path in enumerate(others):
                await backend.load(f"other{index}", path)
                backend.submit(_work(f"other{index}", 3), Collector())
                backend.unload(f"other{index}")
            rounds += 1
        assert rounds > 1
    assert {model: c.tokens for model, c in collectors.items()} == expected


async def test_an_unloaded_adapter_finishes_its_answers_and_takes_no_new_ones(qwen) -> None:
    expected = plain_greedy(plain_model(qwen.base, qwen.adapters["every"]), PROMPT, 100)
    async with engine(qwen.base) as backend:
        await backend.load("every", qwen.adapters["every"])
        started = asyncio.Event()
        collector = Collector(started.set)
        backend.submit(_work("every", 100), collector)
        await started.wait()
        backend.unload("every")
        with pytest.raises(NotFound, match="every"):
            backend.submit(_work("every"), Collector())
        await collector.done.wait()
        assert collector.tokens == expected
        with pytest.raises(NotFound):
            backend.unload("every")


async def test_concurrent_loads_of_one_name_are_one(qwen) -> None:
    async with engine(qwen.base) as backend:
        await asyncio.gather(*[backend.load("every", qwen.adapters["every"]) for _ in range(4)])
        assert [card.name for card in backend.cards()] == ["base", "every"]


async def test_values_that_overflow_end_their_own_request_and_harm_no_other(qwen, tmp_path) -> None:
    """Finite weights whose products are infinite: no check at loading can see them."""

    def explode(tensors) -> None:
        for tensor in tensors.values():
            tensor.mul_(1e25)

    bad = make_adapter(tmp_path / "bad", qwen.base, targets=ALL, change=explode)
    expected = plain_greedy(plain_model(qwen.base, qwen.adapters["every"]), PROMPT, 60)
    base = plain_greedy(plain_model(qwen.base, None), PROMPT, 60)
    async with engine(qwen.base) as backend:
        await backend.load("bad", bad)
        await backend.load("every", qwen.adapters["every"])
        good, plain = Collector(), Collector()
        backend.submit(_work("every", 60), good)
        backend.submit(_work("base", 60), plain)
        for _ in range(5):
            failed = await ask(backend, _work("bad"))
            assert failed.steps[-1].error is not None
            assert failed.steps[-1].error.code == "not_finite"
            scored = Sampling(max_tokens=0, prompt_logprobs=True, top_logprobs=1)
            assert (await ask(backend, Work("bad", PROMPT, scored))).steps[-1].error is not None
        await good.done.wait()
        await plain.done.wait()
        assert (good.tokens, plain.tokens) == (expected, base)
        # What the bad ones left in the cache must not reach those who come after them.
        again = [await ask(backend, _work(model, 60)) for model in ("every", "base")]
        assert [c.tokens for c in again] == [expected, base]
        assert backend.metrics().kv_tokens_used == 0


async def test_a_poisoned_adapter_is_refused_at_loading(qwen, tmp_path) -> None:
    def poison(tensors) -> None:
        next(iter(tensors.values()))[0, 0] = float("nan")

    bad = make_adapter(tmp_path / "bad", qwen.base, change=poison)
    async with engine(qwen.base) as backend:
        with pytest.raises(InvalidRequest, match="not finite") as caught:
            await backend.load("bad", bad)
        assert caught.value.code == "invalid_adapter"
        with pytest.raises(NotFound):
            backend.submit(_work("bad"), Collector())


async def test_cancelling_frees_the_cache_of_running_and_waiting(qwen) -> None:
    async with engine(qwen.base, max_running=1) as backend:
        first = Collector()
        running = backend.submit(_work("base", 400), first)
        waiting = [backend.submit(_work("base", 400), Collector()) for _ in range(3)]
        while not first.steps:
            await asyncio.sleep(0)
        running.cancel()
        for ticket in waiting:
            ticket.cancel()
        told = len(first.steps)
        after = await ask(backend, _work("base", 5))
        assert len(after.tokens) == 5
        assert len(first.steps) == told
        metrics = backend.metrics()
        assert (metrics.running, metrics.waiting, metrics.kv_tokens_used) == (0, 0, 0)


async def test_a_flood_of_one_model_does_not_starve_another(qwen) -> None:
    order: list[str] = []
    async with engine(qwen.base, max_running=1) as backend:
        await backend.load("every", qwen.adapters["every"])

        async def asked(model: str) -> None:
            await ask(backend, _work(model, 8))
            order.append(model)

        await asyncio.gather(*[asked("base") for _ in range(15)], asked("every"))
    assert order.index("every") <= 2


async def test_a_full_queue_refuses(qwen) -> None:
    async with engine(qwen.base, max_running=1, max_waiting=3) as backend:
        accepted = [Collector()]
        backend.submit(_work("base", 300), accepted[0])
        while not accepted[0].steps:
            await asyncio.sleep(0)
        for _ in range(3):
            accepted.append(Collector())
            backend.submit(_work("base", 2), accepted[-1])
        with pytest.raises(Unavailable) as caught:
            backend.submit(_work("base", 2), Collector())
        assert caught.value.code == "engine_full"
        for collector in accepted:
            await collector.done.wait()
        assert len((await ask(backend, _work("base", 2))).tokens) == 2


async def test_a_draining_engine_finishes_and_refuses(qwen) -> None:
    async with engine(qwen.base) as backend:
        collector = Collector()
        backend.submit(_work("base", 20), collector)
        backend.drain()
        with pytest.raises(Unavailable) as caught:
            backend.submit(_work("base"), Collector())
        assert caught.value.code == "engine_draining"
        await collector.done.wait()
        assert len(collector.tokens) == 20


async def test_answers_that_outgrow_a_small_cache_step_back_and_stay_the_same(qwen) -> None:
    models = ["base", *qwen.adapters] * 2
    works = [
        Work(
            model,
            [7 + index] * 20,
            Sampling(
                max_tokens=150,
                temperature=1.0,
                seed=index,
                ignore_eos=True,
                prompt_logprobs=True,
                top_logprobs=0,
            ),
        )
        for index, model in enumerate(models)
    ]
    async with engine(qwen.base) as backend:
        for name, path in qwen.adapters.items():
            await backend.load(name, path)
        expected = [await ask(backend, work) for work in works]
    async with engine(qwen.base, kv_tokens=256, headroom=16) as backend:
        assert backend.context == 256
        for name, path in qwen.adapters.items():
            await backend.load(name, path)
        got = await asyncio.gather(*[ask(backend, work) for work in works])
        assert backend.metrics().prompt_tokens == 20 * len(works)
    assert [c.tokens for c in got] == [c.tokens for c in expected]
    for one, other in zip(got, expected, strict=True):
        assert [len(step.prompt) for step in one.steps if step.prompt] == [20]
        scores = [[token.logprob for token in step.prompt[1:]] for step in (one.steps[0], other.steps[0])]
        assert scores[0] == pytest.approx(scores[1], abs=1e-4)
