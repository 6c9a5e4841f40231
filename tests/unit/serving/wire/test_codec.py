"""Token by token, text comes out exactly as the tokenizer would decode the whole."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

from graftwork.serving.wire.codec import TokenizerCodec

TEXTS = ["naïve 日本語 🎉", "a\n\tb  c", "<tool_call>x</tool_call>", "e\u0301", "🏳️‍🌈 done", ""]


def _byte_level() -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=320,
        special_tokens=["<|end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([Path(__file__).read_text()], trainer)
    tokenizer.add_tokens([AddedToken("<tool_call>", normalized=False), AddedToken("</tool_call>")])
    return tokenizer


def _byte_fallback() -> Tokenizer:
    """As SentencePiece models come: ``▁`` for blanks, ``<0xE6>`` for bytes without a piece."""
    words = [
        "<unk>",
        "<|end|>",
        *(f"<0x{byte:02X}>" for byte in range(256)),
        "▁",
        *"abcdefghijklmnopqrstuvwxyz",
    ]
    tokenizer = Tokenizer(
        models.BPE(
            vocab={word: index for index, word in enumerate(words)},
            merges=[],
            unk_token="<unk>",
            fuse_unk=True,
            byte_fallback=True,
        )
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="never", split=False)
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    tokenizer.add_special_tokens(["<unk>", "<|end|>"])
    return tokenizer


def _codec(folder: Path, tokenizer: Tokenizer) -> TokenizerCodec:
    folder.mkdir()
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"eos_token": "<|end|>"}))
    (folder / "chat_template.jinja").write_text("{% for m in messages %}{{ m.content }}{% endfor %}")
    return TokenizerCodec(folder)


@pytest.fixture(scope="module")
def byte_level(tmp_path_factory: pytest.TempPathFactory) -> TokenizerCodec:
    return _codec(tmp_path_factory.mktemp("codec") / "bytes", _byte_level())


@pytest.fixture(scope="module", params=[_byte_level, _byte_fallback])
def codec(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> TokenizerCodec:
    return _codec(tmp_path_factory.mktemp("codec") / "any", request.param())


@pytest.mark.parametrize("text", TEXTS)
def test_a_text_comes_back_and_no_piece_is_broken(codec: TokenizerCodec, text: str) -> None:
    stream = codec.stream()
    pieces = [stream.push(token) for token in codec.encode(text, special=False)]
    assert "".join(pieces) + stream.finish() == text
    assert not any("\ufffd" in piece for piece in pieces)


@given(st.data())
def test_any_tokens_give_what_the_tokenizer_decodes(byte_level: TokenizerCodec, data: st.DataObject) -> None:
    size = byte_level._tokenizer.get_vocab_size()
    tokens = data.draw(st.lists(st.integers(0, size - 1), max_size=40))
    assert byte_level.decode(tokens) == byte_level._tokenizer.decode(tokens)


@given(st.data())
def test_pieces_join_to_the_bytes_of_the_text(byte_level: TokenizerCodec, data: st.DataObject) -> None:
    size = byte_level._tokenizer.get_vocab_size()
    tokens = data.draw(st.lists(st.integers(1, size - 1), max_size=40))
    raw = b"".join(byte_level.piece(token)[1] for token in tokens)
    assert raw.decode(errors="replace") == byte_level.decode(tokens)


def test_special_tokens_are_no_text_and_end_answers(codec: TokenizerCodec) -> None:
    (end,) = codec.eos_ids
    assert codec.decode([end]) == ""
    assert end in codec.special
    assert codec.piece(end)[0] == "<|end|>"


def test_an_unfinished_character_ends_as_a_replacement(byte_level: TokenizerCodec) -> None:
    tokens = byte_level.encode("日", special=False)
    assert byte_level.decode(tokens[:-1]) == "\ufffd"


def test_an_id_without_a_token_is_empty(byte_level: TokenizerCodec) -> None:
    assert byte_level.piece(10**6) == ("", b"")


def test_a_template_renders(byte_level: TokenizerCodec) -> None:
    assert byte_level.render([{"role": "user", "content": "hi"}], None) == "hi"
