"""``POST /v1/completions``: texts or token ids, with echo and scores of the prompt."""

from __future__ import annotations

import secrets
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from graftwork.core.errors import InvalidRequest
from graftwork.serving.wire import replies
from graftwork.serving.wire.answer import Answer, Choice, Piece
from graftwork.serving.wire.backend import Backend, Sampling, Work
from graftwork.serving.wire.chat import room_for, seeds
from graftwork.serving.wire.http import EventStream, body_of, json_response, prepared, unless_gone
from graftwork.serving.wire.requests import (
    MAX_PROMPTS,
    CompletionRequest,
    StreamOptions,
    parse,
    refuse_unsupported,
)

Json = dict[str, Any]

DEFAULT_TOKENS = 16
"""OpenAI's default ``max_tokens`` of a completion."""


@dataclass(frozen=True, slots=True)
class _Prompt:
    tokens: list[int]
    text: str


async def completions(request: Request) -> Response:
    """Continue texts or token ids, whole or streamed."""
    backend: Backend = request.app.state.backend
    body = await body_of(request)
    asked = parse(CompletionRequest, body)
    refuse_unsupported(asked)
    if len(asked.prompts) * (asked.n or 1) > MAX_PROMPTS:
        raise InvalidRequest(
            f"More than {MAX_PROMPTS} answers in one request.", code="invalid_value", param="n"
        )
    prompts = await prepared(len(body), lambda: [_prompt(backend, asked, prompt) for prompt in asked.prompts])
    answer = _answer(backend, asked, prompts)
    head = replies.Head(f"cmpl-{secrets.token_hex(12)}", int(time.time()), asked.model)
    if asked.stream:
        return EventStream(_events(backend, asked, head, answer, prompts), answer.cancel)
    try:
        whole = await unless_gone(request, _whole(backend, asked, head, answer, prompts))
    finally:
        answer.cancel()
    return json_response(whole or {})


def _prompt(backend: Backend, asked: CompletionRequest, prompt: str | list[int]) -> _Prompt:
    if isinstance(prompt, str):
        tokens = backend.codec.encode(prompt, special=asked.add_special_tokens)
        if not tokens:
            raise InvalidRequest("The prompt has no tokens.", code="invalid_value", param="prompt")
        return _Prompt(tokens, prompt)
    wrong = next((token for token in prompt if token >= backend.vocabulary), None)
    if wrong is not None:
        raise InvalidRequest(
            f"Token id {wrong} is outside the vocabulary of {backend.vocabulary}.",
            code="invalid_value",
            param="prompt",
        )
    return _Prompt(prompt, backend.codec.decode(prompt) if asked.echo else "")


def _answer(backend: Backend, asked: CompletionRequest, prompts: list[_Prompt]) -> Answer:
    works: list[Work] = []
    for prompt in prompts:
        room = room_for(backend, len(prompt.tokens), asked.max_tokens, DEFAULT_TOKENS, "prompt")
        if room == 0 and not asked.echo:
            raise InvalidRequest(
                "max_tokens is 0 and nothing is echoed, so there would be no answer.",
                fix="Ask for at least one token, or send echo: true.",
                code="invalid_value",
                param="max_tokens",
            )
        works += [
            Work(
                asked.model,
                prompt.tokens,
                Sampling(
                    max_tokens=room,
                    temperature=1.0 if asked.temperature is None else asked.temperature,
                    top_p=1.0 if asked.top_p is None else asked.top_p,
                    top_k=max(asked.top_k or 0, 0),
                    seed=seed,
                    top_logprobs=asked.logprobs,
                    prompt_logprobs=bool(asked.echo) and asked.logprobs is not None,
                    ignore_eos=bool(asked.ignore_eos),
                ),
            )
            for seed in seeds(asked.seed, asked.n or 1)
        ]
    choices = [
        Choice(i, backend.codec, asked.stops, logprobs=asked.logprobs is not None, tools=False)
        for i in range(len(works))
    ]
    return Answer(backend, works, choices, sum(len(p.tokens) for p in prompts))


async def _whole(
    backend: Backend, asked: CompletionRequest, head: replies.Head, answer: Answer, prompts: list[_Prompt]
) -> Json:
    each = asked.n or 1
    choices = [replies.Gathered() for _ in range(len(prompts) * each)]
    async for piece in answer.pieces():
        choices[piece.index].add(piece)
    return {
        **replies.text_object(head, 0, ""),
        "choices": [
            _choice(backend, asked, index, choice, prompts[index // each].text)
            for index, choice in enumerate(choices)
        ],
        "usage": answer.counts.json(),
    }


def _choice(
    backend: Backend, asked: CompletionRequest, index: int, choice: replies.Gathered, prompt: str
) -> Json:
    logprobs = None
    if asked.logprobs is not None:
        log = replies.TextLogprobs(backend.codec, with_top=asked.logprobs > 0)
        log.prompt(choice.prompt)
        log.entries(choice.entries, len(prompt) if asked.echo else 0)
        logprobs = log.json()
    text = (prompt if asked.echo else "") + choice.text
    return {"index": index, "text": text, "logprobs": logprobs, "finish_reason": choice.finish}


async def _events(
    backend: Backend, asked: CompletionRequest, head: replies.Head, answer: Answer, prompts: list[_Prompt]
) -> AsyncIterator[Json]:
    options = asked.stream_options or StreamOptions()
    running = options.continuous_usage_stats
    usage: Json = {"usage": None} if options.include_usage or running else {}
    each = asked.n or 1
    starts: dict[int, int] = {}
    async for piece in answer.pieces():
        chunk = _chunk(backend, asked, head, piece, prompts[piece.index // each].text, starts)
        if running:
            usage = {"usage": answer.counts.json()}
        yield {**chunk, **usage}
    if options.include_usage:
        yield {**replies.text_object(head, 0, ""), "choices": [], "usage": answer.counts.json()}


def _chunk(
    backend: Backend,
    asked: CompletionRequest,
    head: replies.Head,
    piece: Piece,
    prompt: str,
    starts: dict[int, int],
) -> Json:
    """One piece as a chunk; ``starts`` remembers where a choice's own text begins, once its echo is out."""
    logprobs = None
    echoed = prompt if asked.echo and piece.index not in starts else ""
    start = starts.setdefault(piece.index, len(echoed))
    if asked.logprobs is not None:
        log = replies.TextLogprobs(backend.codec, with_top=asked.logprobs > 0)
        log.prompt(piece.prompt)
        log.entries(piece.entries, start)
        logprobs = log.json()
    return replies.text_object(head, piece.index, echoed + piece.text, logprobs=logprobs, finish=piece.finish)
