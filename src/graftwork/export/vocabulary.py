"""A tokenizer as GGUF metadata, or a reason why llama.cpp would not tokenize the same way."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from graftwork.core.errors import InvalidRequest
from graftwork.data import Renderer
from graftwork.data.tokenizer import TextTokenizer

_CASED = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+"
_REST = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_TEKKEN = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*"
    r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_GPT2 = "gpt-2"
PRE_TOKENIZERS: dict[tuple[str, bool], str] = {
    (_CASED + r"|\p{N}" + _REST, False): "qwen2",
    (_CASED + r"|\p{N}{1,3}" + _REST, True): "llama-bpe",
    (_CASED + r"|\p{N}{1,3}" + _REST, False): "smaug-bpe",
    (_TEKKEN, True): "tekken",
    (_GPT2, False): "gpt-2",
}
"""The regex that splits text, and whether a whole piece that is a token skips the merges, to llama.cpp's name
of the same behaviour (``llama-vocab.cpp``)."""

_NORMAL, _CONTROL, _USER_DEFINED, _UNUSED = 1, 3, 4, 5
"""``gguf.TokenType``."""


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """What a GGUF says of a byte-level BPE tokenizer.

    Attributes:
        pre: llama.cpp's name of how text is split before the merges.
        tokens: texts by id; as many as the embedding has rows.
        types: ``gguf.TokenType`` by id.
        merges: two pieces and a space between, in order of their rank.
        ids: special ids by their GGUF name (``bos``, ``eos``, ``eot``, ``padding``).
        add_bos: whether raw text gets a BOS in front.
        chat_template: as other programs should run it; None for a model without one.
    """

    pre: str
    tokens: list[str]
    types: list[int]
    merges: list[str]
    ids: dict[str, int]
    add_bos: bool
    chat_template: str | None


def read_vocabulary(folder: Path, rows: int) -> Vocabulary:
    """The vocabulary of the model in ``folder``, whose embedding has ``rows`` rows.

    Raises:
        InvalidRequest: llama.cpp has no tokenizer of this behaviour (``tokenizer_unsupported``).
    """
    renderer = Renderer.load(folder)
    tokenizer = renderer.tokenizer
    file = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    model: dict[str, Any] = file["model"]
    _refuse_other_models(file, model)
    tokens, types = _tokens(file, model, rows)
    ids = _special_ids(tokenizer)
    return Vocabulary(
        pre=_pre(file.get("pre_tokenizer"), bool(model.get("ignore_merges"))),
        tokens=tokens,
        types=types,
        merges=[m if isinstance(m, str) else " ".join(m) for m in model["merges"]],
        ids=ids,
        add_bos=_adds_bos(tokenizer, ids),
        chat_template=portable_template(renderer.template.source) if renderer.template else None,
    )


def portable_template(source: str) -> str:
    """A chat template as it should run elsewhere.

    ``{% generation %}`` marks are for training, and unknown to most programs: a condition that always holds
    takes their place, so that the whitespace around them is cut as before. A template that can think is told
    not to, as it was told when the adapter was trained.
    """
    plain = re.sub(r"\{%(-?)\s*generation\s*(-?)%\}", r"{%\1 if true \2%}", source)
    plain = re.sub(r"\{%(-?)\s*endgeneration\s*(-?)%\}", r"{%\1 endif \2%}", plain)
    if re.search(r"\benable_thinking\b", plain):
        plain = "{%- set enable_thinking = false -%}\n" + plain
    return plain


def _refuse_other_models(file: dict[str, Any], model: dict[str, Any]) -> None:
    if model.get("type") != "BPE":
        raise _unsupported(f"it is a {model.get('type')} tokenizer, not byte-level BPE")
    for key in ("byte_fallback", "continuing_subword_prefix", "end_of_word_suffix", "fuse_unk"):
        if model.get(key):
            raise _unsupported(f"its BPE uses {key}")
    normalizer = file.get("normalizer")
    if normalizer is not None and normalizer.get("type") != "NFC":
        raise _unsupported(f"it normalizes text by {normalizer.get('type')}")


def _pre(pre_tokenizer: dict[str, Any] | None, ignore_merges: bool) -> str:
    regex = _regex(pre_tokenizer or {})
    name = None if regex is None else PRE_TOKENIZERS.get((regex, ignore_merges))
    if name is None:
        raise _unsupported("it splits text in a way that llama.cpp has no name for")
    return name


def _regex(pre_tokenizer: dict[str, Any]) -> str | None:
    steps = pre_tokenizer.get("pretokenizers", [pre_tokenizer])
    match steps:
        case [{"type": "ByteLevel", "use_regex": True, "add_prefix_space": False}]:
            return _GPT2
        case [
            {"type": "Split", "pattern": {"Regex": str(regex)}, "behavior": "Isolated", "invert": False},
            {"type": "ByteLevel", "use_regex": False, "add_prefix_space": False},
        ]:
            return regex
        case _:
            return None


def _tokens(file: dict[str, Any], model: dict[str, Any], rows: int) -> tuple[list[str], list[int]]:
    tokens = [f"[PAD{index}]" for index in range(rows)]
    types = [_UNUSED] * rows
    for text, index in model["vocab"].items():
        tokens[index], types[index] = text, _NORMAL
    for added in file.get("added_tokens", []):
        if added.get("lstrip") or added.get("rstrip") or added.get("single_word"):
            raise _unsupported(f"its token {added['content']!r} takes the space around it")
        tokens[added["id"]] = added["content"]
        types[added["id"]] = _CONTROL if added["special"] else _USER_DEFINED
    return tokens, types


def _special_ids(tokenizer: TextTokenizer) -> dict[str, int]:
    found: dict[str, int] = {}
    for name, key in (("bos", "bos_token"), ("padding", "pad_token")):
        text = tokenizer.specials.get(key)
        index = tokenizer.inner.token_to_id(text) if text else None
        if index is not None:
            found[name] = index
    if tokenizer.eos_id is not None:
        found["eos"] = tokenizer.eos_id
    others = sorted(tokenizer.eos_ids - {tokenizer.eos_id})
    if others:
        found["eot"] = others[0]
    return found


def _adds_bos(tokenizer: TextTokenizer, ids: dict[str, int]) -> bool:
    if tokenizer.prefix and tokenizer.prefix != [ids.get("bos")]:
        raise _unsupported("it puts more than a BOS before raw text")
    return bool(tokenizer.prefix)


def _unsupported(why: str) -> InvalidRequest:
    return InvalidRequest(
        f"The base model's tokenizer cannot be written as GGUF: {why}.",
        fix="Export it as merged and convert it with llama.cpp's own script.",
        code="tokenizer_unsupported",
        param="format",
    )
