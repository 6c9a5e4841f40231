"""The seedling's GGUF in llama.cpp: its tokens and its chat template are ours."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from graftwork.data import Renderer
from graftwork.export.gguf_model import write_model
from graftwork.models.folder import seedling_folder

EXAMPLES = Path(__file__).parents[3] / "src/graftwork/data/examples"
ODD = [
    "",
    " ",
    "\n\n \n\t\t x",
    "I'm you're WE'LL they'd 'tis",
    "1234567 3.14159 1,000,000",
    "naïve café Grüße Straße",
    "\u4f60\u597d\uff0c\u4e16\u754c \u3053\u3093\u306b\u3061\u306f \ud55c\uad6d\uc5b4",
    "\U0001f680\U0001f636\u200d\U0001f32b\ufe0f ok",
    "def f(x):\n    return {'a': [1, 2]}  # note\r\n",
    "<|im_start|>user\nhi<|im_end|>\n<tool_call>{}</tool_call>",
    "a<|endoftext|>b < |im_start|> <|im_start|",
    "\u0645\u0631\u062d\u0628\u0627 \u05e9\u05dc\u05d5\u05dd \u0928\u092e\u0938\u094d\u0924\u0947",
    "tabs\tand  double  spaces   and trailing ",
    "https://example.org/a?b=c&d=%20#e",
]
TOOL = {
    "type": "function",
    "function": {
        "name": "lookup",
        "description": "Find a thing",
        "parameters": {"type": "object", "properties": {"id": {"type": "string"}}},
    },
}


def rows(name: str) -> list[dict[str, Any]]:
    """The chat rows of an example."""
    found = [json.loads(line) for line in (EXAMPLES / name).read_text().splitlines()]
    return [row for row in found if "messages" in row]


@pytest.fixture(scope="module")
def seedling(tmp_path_factory) -> Path:
    file = tmp_path_factory.mktemp("seedling") / "seedling.gguf"
    write_model(seedling_folder(), None, file, "f16", name="seedling")
    return file


def test_tokens_are_ours(llama, seedling: Path):
    texts = list(ODD)
    for path in sorted(EXAMPLES.glob("*.valid.jsonl")):
        for row in rows(path.name)[:60]:
            texts += [m["content"] for m in row["messages"] if isinstance(m.get("content"), str)]
    for path in sorted((EXAMPLES.parents[1] / "core").glob("*.py")):
        texts += path.read_text().split("\n\n")[:20]
    renderer = Renderer.load(seedling_folder())
    told = llama(model=str(seedling), texts=texts)["tokens"]
    different = [t for t, ids in zip(texts, told, strict=True) if renderer.tokenize(t) != ids]
    assert len(texts) > 400
    assert different == []


def test_the_chat_template_is_ours(llama, seedling: Path):
    talks = [
        {"messages": row["messages"][:-1]}
        for path in sorted(EXAMPLES.glob("*.valid.jsonl"))
        for row in rows(path.name)[:40]
    ]
    talks += [
        {"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "yes"}] * n + end}
        for n in (1, 2, 3)
        for end in ([{"role": "user", "content": "and?\n"}],)
    ]
    renderer = Renderer.load(seedling_folder())
    ours = [renderer.render_prompt(talk["messages"]) for talk in talks]
    assert len(talks) > 100
    assert llama(model=str(seedling), conversations=talks)["prompts"] == ours


def test_tools_are_told_as_we_tell_them(llama, seedling: Path):
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Find 7."}]
    [told] = llama(model=str(seedling), conversations=[{"messages": messages, "tools": [TOOL]}])["prompts"]
    assert told == Renderer.load(seedling_folder()).render_prompt(messages, [TOOL])
