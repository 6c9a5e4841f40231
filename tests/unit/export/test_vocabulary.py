"""Tokenizers and templates in GGUF's words."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from graftwork.core.errors import InvalidRequest
from graftwork.data import Renderer
from graftwork.data.template import ChatTemplate
from graftwork.export.vocabulary import PRE_TOKENIZERS, portable_template, read_vocabulary
from graftwork.models.folder import seedling_folder

TALK = [
    {"role": "user", "content": "a"},
    {"role": "assistant", "content": "b"},
    {"role": "user", "content": "c"},
]


def changed(folder: Path, change: Any) -> Path:
    for name in ("tokenizer_config.json", "config.json", "chat_template.jinja"):
        shutil.copyfile(seedling_folder() / name, folder / name)
    file = json.loads((seedling_folder() / "tokenizer.json").read_text())
    change(file)
    (folder / "tokenizer.json").write_text(json.dumps(file))
    return folder


def test_the_seedlings_vocabulary():
    vocabulary = read_vocabulary(seedling_folder(), 4096)
    assert vocabulary.pre == "qwen2"
    assert vocabulary.ids == {"padding": 1, "eos": 3}
    assert not vocabulary.add_bos
    assert [vocabulary.tokens[i] for i in (0, 3, 4092)] == ["<|endoftext|>", "<|im_end|>", "<tool_call>"]
    assert [vocabulary.types[i] for i in (3, 4, 4092)] == [3, 1, 4]
    assert vocabulary.merges[0] == "Ċ Ċ"
    assert len(vocabulary.tokens) == len(vocabulary.types) == 4096


def test_rows_without_a_token_are_unused():
    vocabulary = read_vocabulary(seedling_folder(), 4100)
    assert vocabulary.tokens[4099] == "[PAD4099]"
    assert vocabulary.types[4096:] == [5] * 4


@pytest.mark.parametrize(("key", "name"), PRE_TOKENIZERS.items())
def test_known_ways_to_split_text_have_their_names(key: tuple[str, bool], name: str, tmp_path: Path):
    def change(file: dict[str, Any]) -> None:
        if name == "gpt-2":
            file["pre_tokenizer"] = {
                "type": "ByteLevel",
                "add_prefix_space": False,
                "trim_offsets": True,
                "use_regex": True,
            }
        else:
            file["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"] = key[0]
        file["model"]["ignore_merges"] = key[1]

    assert read_vocabulary(changed(tmp_path, change), 4096).pre == name


def _regex(file: dict[str, Any]) -> None:
    file["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"] = r"\w+|\W"


def _ignores(file: dict[str, Any]) -> None:
    file["model"]["ignore_merges"] = True


def _lower(file: dict[str, Any]) -> None:
    file["normalizer"] = {"type": "Lowercase"}


def _bytes(file: dict[str, Any]) -> None:
    file["model"]["byte_fallback"] = True


def _strip(file: dict[str, Any]) -> None:
    file["added_tokens"][-1]["lstrip"] = True


@pytest.mark.parametrize("change", [_regex, _ignores, _lower, _bytes, _strip])
def test_what_llama_cpp_would_do_otherwise_is_refused(change: Any, tmp_path: Path):
    with pytest.raises(InvalidRequest) as caught:
        read_vocabulary(changed(tmp_path, change), 4096)
    assert caught.value.code == "tokenizer_unsupported"


def test_a_portable_template_says_the_same_without_marks():
    source = (seedling_folder() / "chat_template.jinja").read_text()
    plain = portable_template(source)
    assert "generation -%}" in source
    assert "endgeneration" not in plain and "{%- generation" not in plain
    ours = Renderer.load(seedling_folder()).render_prompt(TALK)
    assert ChatTemplate(plain).render(TALK, None, True, {}).text == ours


def test_a_template_that_can_think_does_not():
    template = ChatTemplate(portable_template("{{ 'yes' if enable_thinking else 'no' }}"))
    assert template.render(TALK, None, True, {"enable_thinking": True}).text == "no"
