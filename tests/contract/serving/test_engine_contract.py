"""What every engine promises (``serving/port.py``) and speaks (OpenAI HTTP), the fake one included."""

from __future__ import annotations

import asyncio

import httpx
import openai
import pytest

from graftwork.core.errors import Conflict, GraftworkError, InvalidRequest, NotFound, Unavailable
from graftwork.serving.client import EngineClient
from graftwork.serving.port import BASE, EngineState, engine_name

pytestmark = pytest.mark.asyncio(loop_scope="module")

NAME, OTHER = engine_name("ab" * 32), engine_name("cd" * 32)
CHAT = [{"role": "user", "content": "hello there"}]


async def test_ensure_is_idempotent_and_keeps_the_generation(harness) -> None:
    first = await harness.up()
    again, also = await asyncio.gather(*[harness.engine.ensure(harness.base, "tiny") for _ in range(2)])
    assert first == again == also
    status = await harness.engine.observe()
    assert (status.state, status.info, status.adapters) == (EngineState.READY, first, frozenset())
    assert first.token not in repr(first)


async def test_load_is_create_only_and_idempotent(harness, client) -> None:
    await harness.engine.load(NAME, harness.adapters[0])
    await harness.engine.load(NAME, harness.adapters[0])
    with pytest.raises(Conflict) as caught:
        await harness.engine.load(NAME, harness.adapters[1])
    assert caught.value.code == "adapter_conflict"
    with pytest.raises(Conflict):
        await harness.engine.load(BASE, harness.adapters[1])
    assert await harness.engine.adapters() == {NAME}
    assert (await harness.engine.observe()).adapters == {NAME}


async def test_what_is_no_adapter_is_refused(harness, client, tmp_path) -> None:
    with pytest.raises(InvalidRequest) as caught:
        await harness.engine.load(NAME, tmp_path)
    assert caught.value.code == "invalid_adapter"
    assert await harness.engine.adapters() == set()


@pytest.mark.parametrize("name", ["../up", "a/b", "", "a b", "x" * 200])
async def test_names_are_names(harness, client, name: str) -> None:
    with pytest.raises(GraftworkError):
        await client.load(name, harness.adapters[0])
    assert await harness.engine.adapters() == set()


async def test_an_adapter_answers_until_it_is_unloaded_and_never_the_base_for_it(harness, client) -> None:
    with pytest.raises(NotFound) as caught:
        await client.chat(NAME, CHAT, max_tokens=3)
    assert caught.value.code == "model_not_found"
    await harness.engine.load(NAME, harness.adapters[0])
    answer = await client.chat(NAME, CHAT, max_tokens=3)
    assert answer["model"] == NAME
    await harness.engine.unload(NAME)
    await harness.engine.unload(NAME)
    with pytest.raises(NotFound):
        await client.chat(NAME, CHAT, max_tokens=3)
    with pytest.raises(NotFound):
        await client.score(NAME, [1, 2, 3])


async def test_models_lists_root_and_parent(harness, client) -> None:
    await harness.engine.load(NAME, harness.adapters[0])
    base, adapter = await client.models()
    assert (base["id"], base["root"], base["parent"]) == (BASE, "tiny", None)
    assert (adapter["id"], adapter["parent"]) == (NAME, BASE)
    assert adapter["root"] == str(harness.adapters[0])


async def test_scores_one_value_for_each_token_but_the_first(client) -> None:
    scores = await client.score(BASE, [5, 6, 7, 8])
    assert scores[0] is None
    assert len(scores) == 4
    assert all(isinstance(value, float) and value <= 0 for value in scores[1:])


async def test_every_route_asks_for_the_token(harness, client) -> None:
    info = await harness.up()
    routes = [
        ("GET", "/health"),
        ("GET", "/metrics"),
        ("GET", "/v1/models"),
        ("POST", "/v1/chat/completions"),
        ("POST", "/v1/completions"),
        ("GET", "/admin/state"),
        ("POST", "/admin/adapters"),
        ("DELETE", f"/admin/adapters/{NAME}"),
        ("POST", "/admin/drain"),
        ("GET", "/no/such/route"),
    ]
    async with httpx.AsyncClient(base_url=info.url) as http:
        for method, path in routes:
            for headers in ({}, {"authorization": "Bearer wrong"}):
                response = await http.request(method, path, headers=headers)
                assert (response.status_code, path) == (401, path)
                assert response.json()["error"]["code"] == "invalid_engine_token"


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"messages": []}, "messages"),
        ({"messages": "hello"}, "messages"),
        ({"messages": [{"content": "no role"}]}, "messages"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "messages"),
        ({"model": None}, "model"),
        ({"model": 5}, "model"),
        ({"temperature": -0.1}, "temperature"),
        ({"temperature": 2.1}, "temperature"),
        ({"temperature": "hot"}, "temperature"),
        ({"top_p": 0}, "top_p"),
        ({"top_p": 1.5}, "top_p"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": -1}, "max_tokens"),
        ({"max_tokens": 10**9}, "messages"),
        ({"max_tokens": 10**12}, "max_tokens"),
        ({"max_completion_tokens": 1.5}, "max_completion_tokens"),
        ({"n": 0}, "n"),
        ({"n": 1000}, "n"),
        ({"n": True}, "n"),
        ({"seed": 2**70}, "seed"),
        ({"stop": [""]}, "stop"),
        ({"stop": ["a"] * 100}, "stop"),
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
        ({"top_logprobs": 3}, "top_logprobs"),
        ({"frequency_penalty": 0.5}, "frequency_penalty"),
        ({"logit_bias": {"5": 1}}, "logit_bias"),
        ({"response_format": {"type": "json_object"}}, "response_format"),
        ({"tool_choice": "required"}, "tool_choice"),
    ],
)
async def test_what_is_out_of_bounds_is_refused_by_name(client, change: dict, param: str) -> None:
    body = {"model": BASE, "messages": CHAT, "max_tokens": 1, **change}
    with pytest.raises(InvalidRequest) as caught:
        await client._json("POST", "/v1/chat/completions", body)
    assert caught.value.param == param


@pytest.mark.parametrize("body", [b"", b"[]", b"{", b'{"model": NaN}', b'"x"', b"\xff"])
async def test_bodies_that_are_no_object_are_refused(harness, client, body: bytes) -> None:
    info = await harness.up()
    async with httpx.AsyncClient(
        base_url=info.url, headers={"authorization": f"Bearer {info.token}"}
    ) as http:
        for path in ("/v1/chat/completions", "/v1/completions", "/admin/adapters"):
            response = await http.post(path, content=body)
            assert response.status_code == 400
            assert response.json()["error"]["type"] == "invalid_request_error"


async def _until_idle(client) -> None:
    while True:
        metrics = await client.metrics()
        if metrics.running == metrics.waiting == metrics.kv_tokens_used == 0:
            return
        await asyncio.sleep(0.005)


async def test_leaving_a_stream_frees_its_place(harness, client) -> None:
    before = (await client.metrics()).generated_tokens
    stream = client.stream_chat(BASE, CHAT, max_tokens=400, ignore_eos=True)
    async for chunk in stream:
        if chunk["choices"][0]["delta"].get("content"):
            break
    await stream.aclose()
    await _until_idle(client)
    assert (await client.metrics()).generated_tokens - before < 400


async def test_leaving_a_whole_answer_frees_its_place(client) -> None:
    before = (await client.metrics()).requests
    asked = asyncio.create_task(client.chat(BASE, CHAT, max_tokens=400, ignore_eos=True))
    while (await client.metrics()).requests == before:
        await asyncio.sleep(0)
    asked.cancel()
    await asyncio.wait({asked})
    await _until_idle(client)


async def test_metrics_are_prometheus_text(harness, client) -> None:
    info = await harness.up()
    await client.chat(BASE, CHAT, max_tokens=2)
    async with httpx.AsyncClient() as http:
        response = await http.get(f"{info.url}/metrics", headers={"authorization": f"Bearer {info.token}"})
    assert response.headers["content-type"].startswith("text/plain; version=0.0.4")
    lines = response.text.splitlines()
    assert "# TYPE graftwork_engine_running gauge" in lines
    assert any(
        line.startswith('graftwork_engine_model_generated_tokens_total{model="base"} ') for line in lines
    )


async def test_the_stock_sdk_speaks_to_it(harness, client) -> None:
    info = await harness.up()
    await harness.engine.load(NAME, harness.adapters[0])
    sdk = openai.AsyncOpenAI(base_url=f"{info.url}/v1", api_key=info.token, max_retries=0)
    async with sdk:
        assert [m.id async for m in sdk.models.list()] == [BASE, NAME]
        whole = await sdk.chat.completions.create(
            model=NAME, messages=CHAT, max_tokens=4, seed=1, logprobs=True
        )
        assert whole.usage is not None
        assert whole.usage.completion_tokens <= 4
        assert whole.choices[0].logprobs is not None
        stream = await sdk.chat.completions.create(
            model=NAME,
            messages=CHAT,
            max_tokens=4,
            seed=1,
            stream=True,
            stream_options={"include_usage": True},
        )
        chunks = [chunk async for chunk in stream]
        text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
        assert text == whole.choices[0].message.content
        assert chunks[-1].usage == whole.usage
        completion = await sdk.completions.create(model=BASE, prompt="hello", max_tokens=2, echo=True)
        assert completion.choices[0].text.startswith("hello")
        with pytest.raises(openai.NotFoundError) as caught:
            await sdk.chat.completions.create(model=OTHER, messages=CHAT)
        assert caught.value.code == "model_not_found"
        with pytest.raises(openai.BadRequestError):
            await sdk.chat.completions.create(model=BASE, messages=CHAT, temperature=3)


async def test_a_crash_is_seen_and_mended_with_a_new_generation(harness, client) -> None:
    before = await harness.up()
    await harness.engine.load(NAME, harness.adapters[0])
    await harness.kill()
    status = await harness.engine.observe()
    assert (status.state, status.info) == (EngineState.FAILED, None)
    assert status.message
    with pytest.raises(Unavailable):
        await client.chat(BASE, CHAT, max_tokens=1)
    with pytest.raises(Unavailable):
        await harness.engine.load(NAME, harness.adapters[0])
    after = await harness.engine.ensure(harness.base, "tiny")
    assert after.generation == before.generation + 1
    assert after.token != before.token
    assert await harness.engine.adapters() == set()


async def test_draining_finishes_then_destroying_ends(harness) -> None:
    info = await harness.up()
    await harness.engine.load(NAME, harness.adapters[0])
    async with EngineClient(info.url, info.token) as client:
        running = asyncio.create_task(client.chat(NAME, CHAT, max_tokens=50, ignore_eos=True))
        # A quick engine may be done before it is seen at work.
        while not (running.done() or (await client.metrics()).running):
            await asyncio.sleep(0)
        assert await harness.engine.drain(30)
        assert (await running)["usage"]["completion_tokens"] == 50
        with pytest.raises(Unavailable) as caught:
            await client.chat(NAME, CHAT, max_tokens=1)
        assert caught.value.code == "engine_draining"
    await harness.engine.destroy()
    await harness.engine.destroy()
    assert (await harness.engine.observe()).state == EngineState.ABSENT
    assert await harness.engine.adapters() == set()
    assert await harness.engine.drain(1)
    await harness.engine.unload(NAME)
    for act in (harness.engine.load(NAME, harness.adapters[0]), harness.engine.metrics()):
        with pytest.raises(Unavailable) as caught:
            await act
        assert caught.value.code == "engine_unreachable"
