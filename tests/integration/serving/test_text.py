"""Text over HTTP: streams, stop strings, broken characters, choices, tools and counts."""

from __future__ import annotations

import asyncio
import math

import pytest
from tinyserving import client_of, engine

from graftwork.core.errors import GraftworkError
from graftwork.serving.wire.stops import StopMatcher

CHAT = [{"role": "user", "content": "Tell me: naïve 日本 🎉?"}]


@pytest.fixture
async def client(qwen):
    async with engine(qwen.base, kv_tokens=4096) as backend, client_of(backend) as client:
        await backend.load("every", qwen.adapters["every"])
        yield client


async def _streamed(client, **options) -> tuple[str, list[dict], dict]:
    text, entries, last = "", [], {}
    async for chunk in client.stream_chat("every", CHAT, **options):
        for choice in chunk["choices"]:
            text += choice["delta"].get("content") or ""
            entries += (choice["logprobs"] or {}).get("content", [])
            last = choice if choice["finish_reason"] else last
    return text, entries, last


@pytest.mark.parametrize("seed", range(4))
async def test_streamed_text_is_the_whole_text(client, seed: int) -> None:
    """Random models write broken UTF-8 all the time; a stream must neither lose nor change a byte of it."""
    options = {"seed": seed, "max_tokens": 120, "logprobs": True, "temperature": 1.5}
    whole = (await client.chat("every", CHAT, **options))["choices"][0]
    text, entries, last = await _streamed(client, **options)
    assert text == whole["message"]["content"]
    assert entries == whole["logprobs"]["content"]
    assert last["finish_reason"] == whole["finish_reason"]
    special = {"<|pad|>", "<|im_start|>"}  # drawn like any token, but no text
    raw = b"".join(bytes(entry["bytes"]) for entry in entries if entry["token"] not in special)
    assert raw.decode(errors="replace") == text


async def test_multi_byte_characters_come_whole(client) -> None:
    """With the text forced by echo, no chunk may cut a character that the tokens spell over several."""
    asked = {"prompt": "naïve 日本 🎉", "max_tokens": 3, "seed": 1, "echo": True}
    answer = await client.complete("base", asked.pop("prompt"), **asked)
    assert answer["choices"][0]["text"].startswith("naïve 日本 🎉")


@pytest.mark.parametrize("seed", range(4))
async def test_stop_strings_end_the_answer_before_them_wherever_tokens_cut_them(client, seed: int) -> None:
    options = {"seed": seed, "max_tokens": 80, "temperature": 1.5, "logprobs": True}
    free = (await client.chat("every", CHAT, **options))["choices"][0]["message"]["content"]
    stops = [free[20:23], free[31:36]]
    matcher = StopMatcher(tuple(stops))
    expected = matcher.push(free)
    stopped = await client.chat("every", CHAT, stop=stops, **options)
    assert stopped["choices"][0]["message"]["content"] == expected
    assert stopped["choices"][0]["finish_reason"] == "stop"
    text, entries, last = await _streamed(client, stop=stops, **options)
    assert (text, last["finish_reason"]) == (expected, "stop")
    assert entries == stopped["choices"][0]["logprobs"]["content"]


async def test_the_end_token_ends_the_answer_and_is_no_text(client) -> None:
    """At temperature 2 the random model soon draws its end token."""
    options = {"temperature": 2, "max_tokens": 200, "logprobs": True}
    answers = await asyncio.gather(*[client.chat("every", CHAT, seed=seed, **options) for seed in range(12)])
    ended = [a for a in answers if a["choices"][0]["finish_reason"] == "stop"]
    assert ended
    for answer in ended:
        content = answer["choices"][0]["logprobs"]["content"]
        assert answer["usage"]["completion_tokens"] == len(content) + 1
        assert "<|im_end|>" not in answer["choices"][0]["message"]["content"]


async def test_usage_comes_once_when_asked_and_running_when_asked(client) -> None:
    chunks = [
        chunk
        async for chunk in client.stream_chat(
            "base", CHAT, max_tokens=9, ignore_eos=True, stream_options={"include_usage": True}
        )
    ]
    assert [c["usage"] for c in chunks[:-1]] == [None] * (len(chunks) - 1)
    assert chunks[-1]["choices"] == []
    usage = chunks[-1]["usage"]
    assert usage["completion_tokens"] == 9
    assert usage["total_tokens"] == usage["prompt_tokens"] + 9
    options = {"continuous_usage_stats": True}
    running = [
        chunk["usage"]["completion_tokens"]
        async for chunk in client.stream_chat(
            "base", CHAT, max_tokens=9, ignore_eos=True, stream_options=options
        )
        if chunk["usage"]
    ]
    assert running == sorted(running)
    assert running[-1] == 9


async def test_several_choices_have_their_own_seeds(client) -> None:
    answer = await client.chat("every", CHAT, n=3, seed=5, max_tokens=20, temperature=1.5, ignore_eos=True)
    texts = [choice["message"]["content"] for choice in answer["choices"]]
    assert [choice["index"] for choice in answer["choices"]] == [0, 1, 2]
    assert len(set(texts)) == 3
    alone = await client.chat("every", CHAT, seed=6, max_tokens=20, temperature=1.5, ignore_eos=True)
    assert alone["choices"][0]["message"]["content"] == texts[1]
    assert answer["usage"]["completion_tokens"] == 60


async def test_completions_take_several_prompts(client) -> None:
    answer = await client.complete("base", "x", max_tokens=4, temperature=0)
    single = answer["choices"][0]["text"]
    both = await client._json(
        "POST", "/v1/completions", {"model": "base", "prompt": ["y", "x"], "max_tokens": 4, "temperature": 0}
    )
    assert both["choices"][1]["text"] == single
    assert both["usage"]["prompt_tokens"] == 2


async def test_echoed_logprobs_line_up_with_the_text(client) -> None:
    answer = (await client.complete("base", "abc def", echo=True, logprobs=2, max_tokens=5, temperature=0))[
        "choices"
    ][0]
    logprobs = answer["logprobs"]
    assert len({len(values) for values in logprobs.values()}) == 1
    assert logprobs["token_logprobs"][0] is None
    assert logprobs["top_logprobs"][0] is None
    for token, offset in zip(logprobs["tokens"], logprobs["text_offset"], strict=True):
        if "\ufffd" not in token:
            assert answer["text"][offset : offset + len(token)] == token
    for value, top in zip(logprobs["token_logprobs"][1:], logprobs["top_logprobs"][1:], strict=True):
        assert value <= max(top.values()) + 1e-6
        assert math.exp(value) <= 1


async def test_a_request_over_the_context_is_told_the_numbers(client) -> None:
    with pytest.raises(GraftworkError) as caught:
        await client.complete("base", [5] * 500, max_tokens=50)
    assert caught.value.code == "context_length_exceeded"
    assert all(number in str(caught.value) for number in ("512", "500", "50"))


async def test_a_chat_without_a_limit_may_fill_the_context(client) -> None:
    answer = await client.chat("base", CHAT, ignore_eos=True, temperature=1.0)
    assert answer["usage"]["total_tokens"] == 512
    assert answer["choices"][0]["finish_reason"] == "length"


async def test_tools_reach_the_template(client) -> None:
    tool = {"type": "function", "function": {"name": "look", "parameters": {}}}
    without = await client.chat("base", CHAT, max_tokens=1)
    with_tools = await client.chat("base", CHAT, max_tokens=1, tools=[tool])
    ignored = await client.chat("base", CHAT, max_tokens=1, tools=[tool], tool_choice="none")
    assert with_tools["usage"]["prompt_tokens"] > without["usage"]["prompt_tokens"]
    assert ignored["usage"]["prompt_tokens"] == without["usage"]["prompt_tokens"]
