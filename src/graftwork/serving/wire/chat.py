"""``POST /v1/chat/completions``."""

from __future__ import annotations

import secrets
import time
from collections.abc import AsyncIterator
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from graftwork.core.errors import InvalidRequest
from graftwork.serving.wire import replies
from graftwork.serving.wire.answer import Answer, Choice, Piece
from graftwork.serving.wire.backend import Backend, Sampling, Work
from graftwork.serving.wire.http import EventStream, body_of, json_response, prepared, unless_gone
from graftwork.serving.wire.requests import (
    ChatRequest,
    StreamOptions,
    parse,
    plain_messages,
    refuse_unsupported,
)

Json = dict[str, Any]


def room_for(backend: Backend, prompt: int, asked: int | None, default: int | None, param: str) -> int:
    """Tokens an answer may have.

    Raises:
        InvalidRequest: prompt and answer do not fit the context (code ``context_length_exceeded``).
    """
    left = backend.context - prompt
    wanted = asked if asked is not None else min(default or left, left)
    if wanted > left or (left < 1 and wanted != 0):
        raise InvalidRequest(
            f"This model's context is {backend.context} tokens; the prompt has {prompt} and {max(wanted, 1)} "
            f"more were asked for.",
            fix="Shorten the prompt or lower max_tokens.",
            code="context_length_exceeded",
            param=param,
        )
    return wanted


def seeds(seed: int | None, count: int) -> list[int | None]:
    """One seed for each choice: the first is the request's own."""
    return [None if seed is None else seed + index for index in range(count)]


async def chat_completions(request: Request) -> Response:
    """Answer a chat, whole or streamed."""
    backend: Backend = request.app.state.backend
    body = await body_of(request)
    asked = parse(ChatRequest, body)
    refuse_unsupported(asked)
    tools = asked.tools if asked.tools and asked.tool_choice != "none" else None
    messages, codec = plain_messages(asked.messages), backend.codec
    prompt = await prepared(len(body), lambda: codec.encode(codec.render(messages, tools), special=False))
    if not prompt:
        raise InvalidRequest(
            "The chat template makes an empty prompt of these messages.",
            code="invalid_value",
            param="messages",
        )
    answer = _answer(backend, asked, prompt, tools=tools is not None)
    head = replies.Head(f"chatcmpl-{secrets.token_hex(12)}", int(time.time()), asked.model)
    if asked.stream:
        return EventStream(_events(backend, asked, head, answer), answer.cancel)
    try:
        whole = await unless_gone(request, _whole(backend, asked, head, answer))
    finally:
        answer.cancel()
    return json_response(whole or {})


def _answer(backend: Backend, asked: ChatRequest, prompt: list[int], *, tools: bool) -> Answer:
    limit = asked.max_completion_tokens or asked.max_tokens
    room = room_for(backend, len(prompt), limit, None, "messages")
    works = [
        Work(
            asked.model,
            prompt,
            Sampling(
                max_tokens=room,
                temperature=1.0 if asked.temperature is None else asked.temperature,
                top_p=1.0 if asked.top_p is None else asked.top_p,
                top_k=max(asked.top_k or 0, 0),
                seed=seed,
                top_logprobs=(asked.top_logprobs or 0) if asked.logprobs else None,
                ignore_eos=bool(asked.ignore_eos),
            ),
        )
        for seed in seeds(asked.seed, asked.n or 1)
    ]
    choices = [
        Choice(i, backend.codec, asked.stops, logprobs=bool(asked.logprobs), tools=tools)
        for i in range(len(works))
    ]
    return Answer(backend, works, choices, len(prompt))


async def _whole(backend: Backend, asked: ChatRequest, head: replies.Head, answer: Answer) -> Json:
    choices = [replies.Gathered() for _ in range(asked.n or 1)]
    async for piece in answer.pieces():
        choices[piece.index].add(piece)
    usage = answer.counts.json()
    return replies.chat_completion(head, backend.codec, choices, usage, logprobs=bool(asked.logprobs))


async def _events(
    backend: Backend, asked: ChatRequest, head: replies.Head, answer: Answer
) -> AsyncIterator[Json]:
    options = asked.stream_options or StreamOptions()
    running = options.continuous_usage_stats
    usage: Json = {"usage": None} if options.include_usage or running else {}
    for index in range(asked.n or 1):
        yield {**replies.chat_chunk(head, index, {"role": "assistant", "content": ""}), **usage}
    async for piece in answer.pieces():
        if running:
            usage = {"usage": answer.counts.json()}
        yield {**_chunk(backend, asked, head, piece), **usage}
    if options.include_usage:
        yield {
            **replies.chat_chunk(head, 0, {}),
            "choices": [],
            "usage": answer.counts.json(),
        }


def _chunk(backend: Backend, asked: ChatRequest, head: replies.Head, piece: Piece) -> Json:
    delta: Json = {"content": piece.text} if piece.text or not piece.finish else {}
    if piece.tool_calls:
        delta["tool_calls"] = [{"index": i, **call} for i, call in enumerate(piece.tool_calls)]
    logprobs = replies.chat_logprobs(backend.codec, piece.entries) if asked.logprobs else None
    return replies.chat_chunk(head, piece.index, delta, logprobs=logprobs, finish=piece.finish)
