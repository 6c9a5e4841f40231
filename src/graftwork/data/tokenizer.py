"""A base model's tokenizer from its folder, without transformers."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import orjson
from tokenizers import Encoding, Tokenizer

from graftwork.core.errors import InvalidRequest

_SPECIAL = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")


class TextTokenizer:
    """``tokenizer.json`` and what the files beside it say of special tokens.

    Attributes:
        hash: sha256 of ``tokenizer.json``.
        specials: special tokens by name (``eos_token`` …), as templates see them.
        eos_id: id of the end-of-text token raw rows end with; None when the model names none.
        eos_ids: every id that ends a turn: the tokenizer's, the config's and the generation config's.
        prefix: ids the tokenizer puts before raw text (a BOS, or none).
    """

    def __init__(self, directory: Path) -> None:
        """Load from ``directory``.

        Raises:
            InvalidRequest: ``tokenizer.json`` is missing or unreadable.
        """
        path = directory / "tokenizer.json"
        try:
            content = path.read_bytes()
            self.inner: Tokenizer = Tokenizer.from_buffer(content)
        except OSError as error:
            raise _unusable(f"{path} cannot be read: {error.strerror}.") from error
        except ValueError as error:
            raise _unusable(f"{path} is not a tokenizer file: {error}.") from error
        self.inner.no_truncation()
        self.inner.no_padding()
        self.hash = hashlib.sha256(content).hexdigest()
        self.config = read_json(directory / "tokenizer_config.json")
        self.specials = {name: text for name in _SPECIAL if (text := _token_text(self.config.get(name)))}
        eos = self.specials.get("eos_token")
        self.eos_id: int | None = self.inner.token_to_id(eos) if eos else None
        self.eos_ids = self._ends(directory)
        if self.eos_id is None and self.eos_ids:
            self.eos_id = min(self.eos_ids)
        self.prefix = self._prefix()

    def _ends(self, directory: Path) -> frozenset[int]:
        ids = set() if self.eos_id is None else {self.eos_id}
        for name in ("generation_config.json", "config.json"):
            value = read_json(directory / name).get("eos_token_id")
            found = value if isinstance(value, list) else [value]
            ids.update(item for item in found if isinstance(item, int))
        return frozenset(ids)

    def _prefix(self) -> list[int]:
        plain = self.inner.encode("a", add_special_tokens=False).ids
        full = self.inner.encode("a", add_special_tokens=True).ids
        for start in range(len(full) - len(plain) + 1):
            if full[start : start + len(plain)] == plain:
                return full[:start]
        return []

    def encode(self, text: str) -> list[int]:
        """Token ids of ``text`` as it stands: control tokens written in it count as such, none are added."""
        return self.inner.encode(text, add_special_tokens=False).ids

    def encode_many(self, texts: list[str]) -> list[Encoding]:
        """Encodings with offsets, computed together."""
        return self.inner.encode_batch(texts, add_special_tokens=False)

    def decode(self, ids: list[int], skip_special_tokens: bool) -> str:
        """Text of token ids."""
        return self.inner.decode(ids, skip_special_tokens=skip_special_tokens)

    def control_tokens(self) -> tuple[str, ...]:
        """Texts of the special tokens: written inside a message they would be read as control tokens."""
        added = self.inner.get_added_tokens_decoder().values()
        return tuple(token.content for token in added if token.special)


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file; empty when the file is missing or holds something else."""
    try:
        value = orjson.loads(path.read_bytes())
    except (OSError, orjson.JSONDecodeError):
        return {}
    return value if isinstance(value, dict) else {}


def _token_text(value: Any) -> str | None:
    if isinstance(value, dict):
        value = value.get("content")
    return value if isinstance(value, str) else None


def _unusable(message: str) -> InvalidRequest:
    return InvalidRequest(
        message,
        fix="Give a base-model folder with tokenizer.json (a fast tokenizer's save_pretrained writes it).",
        code="tokenizer_missing",
    )
