"""What a test can make the fake engine do."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest

from graftwork.core.errors import PlatformError, Unavailable
from graftwork.serving.client import EngineClient
from graftwork.serving.port import BASE
from graftwork.testing.fake_engine import FakeEngine

CHAT = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "hello there"}]


@pytest.fixture
async def engine():
    engine = FakeEngine(say=lambda model, messages: f"{model} heard {messages[-1]['content']}")
    await engine.ensure(Path("anything"), "seedling")
    yield engine
    await engine.destroy()


@pytest.fixture
async def client(engine):
    async with EngineClient(
        "http://engine", (await engine.ensure(Path("x"), "seedling")).token, transport=engine.transport()
    ) as client:
        yield client


async def test_it_says_what_it_is_told(client) -> None:
    answer = await client.chat(BASE, CHAT)
    assert answer["choices"][0]["message"]["content"] == "base heard hello there"
    assert answer["choices"][0]["finish_reason"] == "stop"
    assert answer["usage"]["completion_tokens"] == 4


async def test_answers_are_cut_at_max_tokens(client) -> None:
    answer = await client.chat(BASE, CHAT, max_tokens=2)
    assert answer["choices"][0]["message"]["content"] == "base heard"
    assert answer["choices"][0]["finish_reason"] == "length"


async def test_scores_are_those_it_is_given(engine, client) -> None:
    engine.backend.score = lambda model, tokens: [-float(token) for token in tokens]
    assert await client.score(BASE, [3, 1, 2]) == [None, -1.0, -2.0]


async def test_it_remembers_what_it_was_asked(engine, client) -> None:
    await client.chat(BASE, CHAT, temperature=0, seed=7)
    (work,) = engine.backend.seen
    assert (work.model, work.sampling.temperature, work.sampling.seed) == (BASE, 0, 7)


async def test_a_break_in_the_middle_is_an_event_without_done(engine, client) -> None:
    engine.backend.fail = PlatformError("It broke.", code="not_finite")
    with pytest.raises(PlatformError) as caught:
        await client.chat(BASE, CHAT)
    assert caught.value.code == "not_finite"
    info = await engine.ensure(Path("x"), "seedling")
    async with httpx.AsyncClient(transport=engine.transport(), base_url="http://engine") as http:
        response = await http.post(
            "/v1/chat/completions",
            json={"model": BASE, "messages": CHAT, "stream": True},
            headers={"authorization": f"Bearer {info.token}"},
        )
    assert response.status_code == 200
    events = response.text.strip().split("\n\n")
    assert '"code":"not_finite"' in events[-1]
    assert "[DONE]" not in response.text


async def test_a_script_that_fails_is_an_error_and_no_hanging(engine, client) -> None:
    def broken(model: str, messages: list) -> str:
        raise KeyError("oops")

    engine.backend.say = broken
    with pytest.raises(PlatformError, match="oops"):
        await client.chat(BASE, CHAT)


async def test_a_full_queue_says_when_to_come_again(engine) -> None:
    engine.backend.max_waiting = 0
    info = await engine.ensure(Path("x"), "seedling")
    async with httpx.AsyncClient(base_url=info.url) as http:
        response = await http.post(
            "/v1/chat/completions",
            json={"model": BASE, "messages": CHAT},
            headers={"authorization": f"Bearer {info.token}"},
        )
    assert response.status_code == 503
    assert int(response.headers["retry-after"]) > 0
    assert response.json()["error"]["code"] == "engine_full"


async def test_without_a_running_server_there_is_no_transport() -> None:
    with pytest.raises(Unavailable):
        FakeEngine().transport()
