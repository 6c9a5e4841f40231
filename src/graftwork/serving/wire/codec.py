"""A base model's tokenizer and chat template, and text that grows token by token."""

from __future__ import annotations

import codecs
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import orjson
from tokenizers import Tokenizer
from tokenizers.decoders import DecodeStream

from graftwork.data.rendering import Renderer
from graftwork.serving.wire.backend import TextStream

Json = dict[str, Any]


def _byte_of_char() -> dict[str, int]:
    """GPT-2's printable stand-ins for bytes, inverted: what byte-level vocabularies are written in."""
    plain = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    table = {chr(byte): byte for byte in plain}
    others = [byte for byte in range(256) if byte not in set(plain)]
    table.update({chr(256 + index): byte for index, byte in enumerate(others)})
    return table


_BYTES = _byte_of_char()


class _ByteStream:
    """Exact for byte-level vocabularies: bytes are joined, and decoded as soon as they make characters."""

    def __init__(self, codec: TokenizerCodec) -> None:
        self._codec = codec
        self._utf8 = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def push(self, token: int) -> str:
        if token in self._codec.special:
            return ""
        return self._utf8.decode(self._codec.piece(token)[1])

    def finish(self) -> str:
        return self._utf8.decode(b"", True)


class _AnyStream:
    """For other vocabularies (SentencePiece): the tokenizer's own incremental decoder."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._stream = DecodeStream(skip_special_tokens=True)
        self._pending: list[int] = []

    def push(self, token: int) -> str:
        text = self._stream.step(self._tokenizer, token)
        self._pending = [*self._pending, token] if text is None else []
        return text or ""

    def finish(self) -> str:
        return self._tokenizer.decode(self._pending) if self._pending else ""


class TokenizerCodec:
    """``Codec`` of a model folder, through the same ``Renderer`` that training uses.

    Attributes:
        special: ids of special tokens, which are no text.
        eos_ids: ids that end an answer.
    """

    def __init__(self, directory: Path) -> None:
        """Load the tokenizer and the template.

        Raises:
            InvalidRequest: the folder lacks a tokenizer, or the template is broken.
        """
        self._renderer = Renderer.load(directory)
        self._tokenizer = self._renderer.tokenizer.inner
        described = orjson.loads((directory / "tokenizer.json").read_bytes())
        self._byte_level = _is_byte_level(described.get("decoder"))
        added = self._tokenizer.get_added_tokens_decoder()
        self.special = frozenset(token for token, about in added.items() if about.special)
        self.eos_ids = self._renderer.eos_ids

    def render(self, messages: list[Json], tools: list[Json] | None) -> str:
        """The prompt of a chat."""
        return self._renderer.render_prompt(messages, tools=tools, add_generation_prompt=True)

    def encode(self, text: str, *, special: bool) -> list[int]:
        """Token ids of a text."""
        return self._renderer.tokenize_raw(text) if special else self._renderer.tokenize(text)

    def decode(self, tokens: Sequence[int]) -> str:
        """Text without special tokens; the same that a stream gives."""
        stream = self.stream()
        return "".join(stream.push(token) for token in tokens) + stream.finish()

    def piece(self, token: int) -> tuple[str, bytes]:
        """One token's text (broken characters as U+FFFD) and bytes; an id without a token is empty."""
        written = self._tokenizer.id_to_token(token) or ""
        if not self._byte_level:
            text = self._tokenizer.decode([token], skip_special_tokens=False)
            return text, text.encode()
        values = [_BYTES.get(char) for char in written]
        raw = written.encode() if None in values else bytes(v for v in values if v is not None)
        return raw.decode(errors="replace"), raw

    def stream(self) -> TextStream:
        """A fresh incremental decoder."""
        return _ByteStream(self) if self._byte_level else _AnyStream(self._tokenizer)


def _is_byte_level(decoder: Json | None) -> bool:
    if decoder is None:
        return False
    if decoder["type"] == "Sequence":
        return [part["type"] for part in decoder["decoders"]] == ["ByteLevel"]
    return decoder["type"] == "ByteLevel"
