"""The HTTP application over a scripted core: tool calls, templates that refuse, bodies too large, bugs."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator

import httpx
import pytest

from graftwork.core.errors import InvalidRequest
from graftwork.serving.client import EngineClient
from graftwork.serving.wire.app import build_app
from graftwork.serving.wire.http import LARGE_BODY, MAX_BODY
from graftwork.testing.fake_engine import FakeBackend, WordCodec

CHAT = [{"role": "user", "content": "Weather in Köln?"}]
TOOL = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}
CALL = 'Let me see. <tool_call> {"name": "weather", "arguments": {"city": "Köln"}} </tool_call>'


@pytest.fixture
def backend() -> FakeBackend:
    return FakeBackend(say=lambda model, messages: CALL)


@pytest.fixture
async def client(backend: FakeBackend) -> AsyncIterator[EngineClient]:
    transport = httpx.ASGITransport(build_app(backend, "t"), raise_app_exceptions=False)
    async with EngineClient("http://engine", "t", transport=transport) as client:
        yield client


async def test_a_tool_call_is_parsed_when_tools_are_given(client) -> None:
    choice = (await client.chat("base", CHAT, tools=[TOOL]))["choices"][0]
    assert choice["finish_reason"] == "tool_calls"
    assert choice["message"]["content"] == "Let me see. "
    (call,) = choice["message"]["tool_calls"]
    assert (call["type"], call["function"]["name"]) == ("function", "weather")
    assert call["function"]["arguments"] == '{"city":"Köln"}'


@pytest.mark.parametrize("options", [{}, {"tools": []}, {"tools": [TOOL], "tool_choice": "none"}])
async def test_without_tools_it_is_text(client, options: dict) -> None:
    choice = (await client.chat("base", CHAT, **options))["choices"][0]
    assert choice["message"]["content"] == CALL
    assert "tool_calls" not in choice["message"]


async def test_a_streamed_tool_call_comes_whole(client) -> None:
    chunks = [chunk["choices"][0] async for chunk in client.stream_chat("base", CHAT, tools=[TOOL])]
    assert "".join(c["delta"].get("content") or "" for c in chunks) == "Let me see. "
    (call,) = chunks[-1]["delta"]["tool_calls"]
    assert (call["index"], call["function"]["name"]) == (0, "weather")
    assert chunks[-1]["finish_reason"] == "tool_calls"


class _Refusing(WordCodec):
    def render(self, messages: list, tools: list | None) -> str:
        raise InvalidRequest("Roles must alternate.", code="template_error")


class _Broken(WordCodec):
    def render(self, messages: list, tools: list | None) -> str:
        raise ZeroDivisionError


class _Empty(WordCodec):
    def render(self, messages: list, tools: list | None) -> str:
        return ""


@pytest.mark.parametrize(
    ("codec", "status", "code"),
    [
        (_Refusing(), 400, "template_error"),
        (_Empty(), 400, "invalid_value"),
        (_Broken(), 500, "internal_error"),
    ],
)
async def test_errors_come_in_the_envelope(codec: WordCodec, status: int, code: str, backend) -> None:
    backend.codec = codec
    app = build_app(backend, "t")
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    headers = {"authorization": "Bearer t"}
    async with httpx.AsyncClient(transport=transport, base_url="http://engine", headers=headers) as http:
        response = await http.post("/v1/chat/completions", json={"model": "base", "messages": CHAT})
    assert (response.status_code, response.json()["error"]["code"]) == (status, code)
    assert set(response.json()["error"]) >= {"message", "type", "param", "code"}


async def test_a_body_too_large_is_refused(client) -> None:
    with pytest.raises(InvalidRequest) as caught:
        await client.chat("base", [{"role": "user", "content": "x" * MAX_BODY}])
    assert caught.value.code == "body_too_large"


class _Placed(WordCodec):
    def __init__(self) -> None:
        super().__init__()
        self.beside_the_loop: list[bool] = []

    def render(self, messages: list, tools: list | None) -> str:
        self.beside_the_loop.append(threading.current_thread() is not threading.main_thread())
        return super().render(messages, tools)


async def test_only_large_bodies_are_rendered_beside_the_event_loop(backend) -> None:
    backend.codec = codec = _Placed()
    transport = httpx.ASGITransport(build_app(backend, "t"))
    async with EngineClient("http://engine", "t", transport=transport) as client:
        for words in ("few", "x" * LARGE_BODY):
            await client.chat("base", [{"role": "user", "content": words}])
    assert codec.beside_the_loop == [False, True]


async def test_one_model_can_be_looked_up(client) -> None:
    assert (await client._json("GET", "/v1/models/base"))["id"] == "base"
    with pytest.raises(Exception, match="nothing"):
        await client._json("GET", "/v1/models/nothing")
