"""OpenAI's objects, made of pieces."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from graftwork.serving.wire.answer import Entry, Piece
from graftwork.serving.wire.backend import Card, Codec, Scored

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Head:
    """What every object of one answer repeats."""

    id: str
    created: int
    model: str


def model_object(card: Card) -> Json:
    """A ``model`` of ``GET /v1/models``."""
    return {
        "id": card.name,
        "object": "model",
        "created": card.created,
        "owned_by": "graftwork",
        "root": card.root,
        "parent": card.parent,
    }


def chat_logprobs(codec: Codec, entries: Iterable[Entry]) -> Json:
    """``logprobs`` of a chat choice."""
    return {"content": [_chat_token(codec, entry.token) for entry in entries], "refusal": None}


def _chat_token(codec: Codec, token: Scored) -> Json:
    def one(token_id: int, logprob: float | None) -> Json:
        text, raw = codec.piece(token_id)
        return {"token": text, "logprob": logprob, "bytes": list(raw)}

    return {
        **one(token.id, token.logprob),
        "top_logprobs": [one(token_id, logprob) for token_id, logprob in token.top],
    }


@dataclass(slots=True)
class TextLogprobs:
    """``logprobs`` of a completion choice, in OpenAI's four parallel lists."""

    codec: Codec
    with_top: bool
    tokens: list[str] = field(default_factory=list)
    token_logprobs: list[float | None] = field(default_factory=list)
    top_logprobs: list[dict[str, float] | None] = field(default_factory=list)
    text_offset: list[int] = field(default_factory=list)

    def prompt(self, scored: Sequence[Scored]) -> None:
        """Add an echoed prompt."""
        text = self.codec.stream()
        offset = 0
        for token in scored:
            self._add(token, offset)
            offset += len(text.push(token.id))

    def entries(self, entries: Iterable[Entry], start: int) -> None:
        """Add generated tokens; ``start`` is the length of what was echoed before."""
        for entry in entries:
            self._add(entry.token, start + entry.offset)

    def _add(self, token: Scored, offset: int) -> None:
        self.tokens.append(self.codec.piece(token.id)[0])
        self.token_logprobs.append(token.logprob)
        tops = {self.codec.piece(i)[0]: value for i, value in token.top} if self.with_top else {}
        self.top_logprobs.append(None if token.logprob is None else tops)
        self.text_offset.append(offset)

    def json(self) -> Json:
        """The lists."""
        return {
            "tokens": self.tokens,
            "token_logprobs": self.token_logprobs,
            "top_logprobs": self.top_logprobs,
            "text_offset": self.text_offset,
        }


@dataclass(slots=True)
class Gathered:
    """One choice, collected from its pieces."""

    text: str = ""
    entries: list[Entry] = field(default_factory=list)
    prompt: tuple[Scored, ...] = ()
    tool_calls: list[Json] = field(default_factory=list)
    finish: str | None = None

    def add(self, piece: Piece) -> None:
        """Append a piece."""
        self.text += piece.text
        self.entries.extend(piece.entries)
        self.prompt = self.prompt or piece.prompt
        self.tool_calls.extend(piece.tool_calls)
        self.finish = piece.finish or self.finish


def chat_completion(
    head: Head, codec: Codec, choices: list[Gathered], usage: Json, *, logprobs: bool
) -> Json:
    """A whole ``chat.completion``."""
    return {
        "id": head.id,
        "object": "chat.completion",
        "created": head.created,
        "model": head.model,
        "choices": [
            {
                "index": index,
                "message": _message(choice),
                "logprobs": chat_logprobs(codec, choice.entries) if logprobs else None,
                "finish_reason": choice.finish,
            }
            for index, choice in enumerate(choices)
        ],
        "usage": usage,
    }


def _message(choice: Gathered) -> Json:
    message: Json = {"role": "assistant", "content": choice.text, "refusal": None}
    if choice.tool_calls:
        message["content"] = choice.text or None
        message["tool_calls"] = choice.tool_calls
    return message


def chat_chunk(
    head: Head, index: int, delta: Json, *, logprobs: Json | None = None, finish: str | None = None
) -> Json:
    """One ``chat.completion.chunk``."""
    return {
        "id": head.id,
        "object": "chat.completion.chunk",
        "created": head.created,
        "model": head.model,
        "choices": [{"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": finish}],
    }


def text_object(
    head: Head, index: int, text: str, *, logprobs: Json | None = None, finish: str | None = None
) -> Json:
    """One ``text_completion`` with a single choice: a chunk, or a part of a whole."""
    return {
        "id": head.id,
        "object": "text_completion",
        "created": head.created,
        "model": head.model,
        "choices": [{"index": index, "text": text, "logprobs": logprobs, "finish_reason": finish}],
    }
