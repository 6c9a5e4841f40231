"""Token for token what transformers' ``apply_chat_template`` gives, over every template that TRL ships."""

import importlib.util
import random
from pathlib import Path

import pytest

from graftwork.core.errors import InvalidData
from graftwork.data import Renderer
from graftwork.data.messages import template_messages
from graftwork.models.folder import seedling_folder

transformers = pytest.importorskip("transformers", reason="needs transformers, the reference")
_TRL = importlib.util.find_spec("trl")
if _TRL is None or _TRL.origin is None:
    pytest.skip("needs trl, for its collection of chat templates", allow_module_level=True)
TEMPLATES = sorted((Path(_TRL.origin).parent / "chat_templates").glob("*.jinja"))
SEEDLING = list(seedling_folder().glob("*.jinja"))
TEXT_ONLY = SEEDLING + [
    path for path in TEMPLATES if not any(w in path.name for w in ("vl", "llava", "idefics"))
]

OPEN_THOUGHT = {"deepseek_r1_distill", "deepseekv3"}
"""Ask with an open ``<think>`` that no earlier answer has: refused without marks."""

TOOL = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Weather <now> & here",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}
WORDS = [
    "hello",
    " naïve",
    "数",
    "🦜",
    "\n",
    "  ",
    "a<b>&c",
    "{{x}}",
    "def f():\n\treturn 1",
    "é",
    "'\"",
    "<|im_end|>",
]


def call(number):
    return {
        "id": f"call_{number}",
        "type": "function",
        "function": {"name": "get_weather", "arguments": '{"city": "Köln", "unit": null}'},
    }


def conversations(seed=0, count=40):
    """Random conversations: system or none, several turns, tools called and answered, weights."""
    draw = random.Random(seed)

    def words():
        # transformers labels only the first byte of a last character that takes several tokens
        return "x" + "".join(draw.choices(WORDS, k=draw.randint(1, 6))) + "z"

    for _ in range(count):
        messages = [{"role": "system", "content": words()}] if draw.random() < 0.5 else []
        tools = None
        for turn in range(draw.randint(1, 3)):
            messages.append({"role": "user", "content": words()})
            if draw.random() < 0.4:
                tools = [TOOL]
                messages.append({"role": "assistant", "content": None, "tool_calls": [call(turn)]})
                messages.append(
                    {
                        "role": "tool",
                        "tool_call_id": f"call_{turn}",
                        "content": words(),
                        "name": "get_weather",
                    }
                )
            messages.append({"role": "assistant", "content": words()})
            if draw.random() < 0.2:
                messages[-1]["weight"] = draw.randint(0, 1)
        yield {"messages": messages, **({"tools": tools} if tools else {})}


def reference(tokenizer, row, **options):
    return tokenizer.apply_chat_template(
        template_messages(row["messages"]), tools=row.get("tools"), enable_thinking=False, **options
    )


@pytest.mark.parametrize("path", TEXT_ONLY, ids=lambda path: path.stem)
def test_tokens_and_prompts_are_transformers(make_folder, path):
    folder = make_folder(path.read_text())
    renderer, tokenizer = Renderer.load(folder), transformers.AutoTokenizer.from_pretrained(folder)
    compared = 0
    for row in conversations():
        try:
            expected = reference(tokenizer, row, return_dict=False)
        except (transformers.utils.chat_template_utils.jinja2.TemplateError, TypeError, ValueError):
            with pytest.raises(InvalidData):
                renderer.encode(row)
            continue
        try:
            encoded = renderer.encode(row)
        except InvalidData as error:
            assert error.code == "template_not_prefix"
            continue
        assert encoded.tokens == expected
        last = row["messages"][:-1]
        prompt = reference(tokenizer, {**row, "messages": last}, tokenize=False, add_generation_prompt=True)
        assert renderer.render_prompt(last, row.get("tools")) == prompt
        compared += 1
    assert compared >= 3 or path.stem in OPEN_THOUGHT


@pytest.mark.parametrize(
    "path", [p for p in TEXT_ONLY if "_training" in p.stem or p in SEEDLING], ids=lambda path: path.stem
)
def test_marked_labels_are_transformers_assistant_masks(make_folder, path):
    """Less one thing: an end-of-turn token right behind a mark is labelled too."""
    folder = make_folder(path.read_text())
    renderer, tokenizer = Renderer.load(folder), transformers.AutoTokenizer.from_pretrained(folder)
    compared = 0
    for row in conversations(seed=1, count=25):
        for message in row["messages"]:
            message.pop("weight", None)
        try:
            expected = reference(tokenizer, row, return_dict=True, return_assistant_tokens_mask=True)
            encoded = renderer.encode(row)
        except (
            transformers.utils.chat_template_utils.jinja2.TemplateError,
            TypeError,
            ValueError,
            InvalidData,
        ):
            continue
        mask = [bool(value) for value in expected["assistant_masks"]]
        ends = [i for i, token in enumerate(encoded.tokens) if token in renderer.eos_ids]
        assert [x for i, x in enumerate(encoded.labels) if i not in ends] == [
            x for i, x in enumerate(mask) if i not in ends
        ]
        assert all(encoded.labels[i] or not mask[i] for i in ends)
        compared += 1
    assert compared >= 3
