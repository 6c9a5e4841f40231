"""What carries loss under published chat templates, against a reader that walks the tokens one by one.

The oracle knows nothing of prefixes or marks: it reads the tokens as the model would, from the opening of an
assistant's turn to its end. Conversations are generated: several turns, tool calls and their answers,
reasoning, weights. Qwen3's and Llama's templates are read as TRL ships them, byte for byte as published.
"""

import json
from importlib.resources import files
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from graftwork.data import Renderer
from graftwork.data.template import ChatTemplate
from graftwork.data.tokenizer import TextTokenizer

SEEDLING = Path(__file__).parents[3] / "src/graftwork/models/seedling"
EMPTY_THOUGHT = "<think>\n\n</think>\n\n"
WORDS = st.text("abc 1é\n", min_size=1, max_size=12).filter(lambda text: text.strip() == text)
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": name,
            "description": "Looks.",
            "parameters": {"type": "object", "properties": {}},
        },
    }
    for name in ("find", "count")
]


def template(name):
    return (files("trl") / "chat_templates" / f"{name}.jinja").read_text(encoding="utf-8")


def with_special(tmp, specials, eos):
    """A byte-level tokenizer whose control tokens are these."""
    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=specials,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    inner.train_from_iterator(["assistant user system tool <think> </think> <tool_call> name"] * 9, trainer)
    folder = tmp.mktemp("published")
    inner.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": eos, "bos_token": specials[0]})
    )
    return TextTokenizer(folder)


CHATML = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
LLAMA = ["<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"]


@pytest.fixture(scope="module")
def renderers(tmp_path_factory):
    chatml = with_special(tmp_path_factory, CHATML, "<|im_end|>")
    llama = with_special(tmp_path_factory, LLAMA, "<|eot_id|>")
    return {
        "seedling": Renderer.load(SEEDLING),
        "qwen3": Renderer(chatml, ChatTemplate(template("qwen3"))),
        "qwen3 thinking": Renderer(chatml, ChatTemplate(template("qwen3")), {"enable_thinking": True}),
        "qwen3_instruct_2507": Renderer(chatml, ChatTemplate(template("qwen3_instruct_2507"))),
        "llama3": Renderer(llama, ChatTemplate(template("llama3"))),
        "llama3_1": Renderer(llama, ChatTemplate(template("llama3_1"))),
    }


OPENINGS = {
    "seedling": ("<|im_start|>", "<|im_start|>assistant\n", "<|im_end|>"),
    "qwen3": ("<|im_start|>", "<|im_start|>assistant\n", "<|im_end|>"),
    "qwen3 thinking": ("<|im_start|>", "<|im_start|>assistant\n", "<|im_end|>"),
    "qwen3_instruct_2507": ("<|im_start|>", "<|im_start|>assistant\n", "<|im_end|>"),
    "llama3": ("<|start_header_id|>", "<|start_header_id|>assistant<|end_header_id|>\n\n", "<|eot_id|>"),
    "llama3_1": ("<|start_header_id|>", "<|start_header_id|>assistant<|end_header_id|>\n\n", "<|eot_id|>"),
}


def oracle(name, renderer, tokens, row):
    """The label of each token, by reading them in order."""
    first, opening, end = OPENINGS[name]
    skip = EMPTY_THOUGHT if name == "qwen3" else ""
    heavy = [m.get("weight") != 0 for m in row["messages"] if m["role"] == "assistant"]
    pieces = [renderer.decode([token], skip_special_tokens=False) for token in tokens]
    labels, turn, state = [], -1, "outside"
    read = b""
    for token, piece in zip(tokens, pieces, strict=True):
        raw = renderer.tokenizer.inner.id_to_token(token)
        if raw == first:
            state, read = "opening", b""
        if state == "opening":
            read += piece.encode()
            if not opening.startswith(read.decode(errors="ignore")):
                state = "outside"
            elif read.decode() == opening:
                turn, state, read = turn + 1, "words", b""
            labels.append(False)
            continue
        if state == "words":
            read += piece.encode()
            asked = skip.startswith(read.decode(errors="ignore")) and _thoughtless(
                renderer, tokens, len(labels)
            )
            labels.append(heavy[turn] and not asked)
            if raw == end:
                state = "outside"
            continue
        labels.append(False)
    assert turn + 1 == len(heavy), "every turn was read"
    return labels


def _thoughtless(renderer, tokens, at):
    """Whether the turn that holds token ``at`` begins with the whole empty thought."""
    opened = max(n for n in range(at) if renderer.decode([tokens[n]], False) == "<|im_start|>")
    return renderer.decode(tokens[opened:], False).startswith(f"<|im_start|>assistant\n{EMPTY_THOUGHT}")


@st.composite
def conversations(draw, tools, thoughts):
    messages = []
    if draw(st.booleans()):
        messages.append({"role": "system", "content": draw(WORDS)})

    def said(**more):
        message = {"role": "assistant", **more}
        if thoughts and draw(st.booleans()):
            message["reasoning_content"] = draw(WORDS)
        if draw(st.booleans()):
            message["weight"] = 0
        return message

    used = False
    for _ in range(draw(st.integers(1, 3))):
        messages.append({"role": "user", "content": draw(WORDS)})
        if tools and draw(st.booleans()):
            used = True
            count = draw(st.integers(1, tools))
            calls = [
                {
                    "id": f"c{len(messages)}{n}",
                    "type": "function",
                    "function": {
                        "name": draw(st.sampled_from(["find", "count"])),
                        "arguments": '{"q": "é 1"}',
                    },
                }
                for n in range(count)
            ]
            words = {"content": draw(WORDS)} if draw(st.booleans()) else {}
            messages.append(said(tool_calls=calls, **words))
            messages += [
                {"role": "tool", "content": draw(WORDS), "tool_call_id": call["id"]} for call in calls
            ]
        messages.append(said(content=draw(WORDS)))
    return {"messages": messages, **({"tools": TOOLS} if used else {})}


CASES = {
    "seedling": (2, False),
    "qwen3": (2, True),
    "qwen3 thinking": (2, True),
    "qwen3_instruct_2507": (2, False),
    "llama3": (0, False),
    "llama3_1": (1, False),
}


@pytest.mark.parametrize("name", CASES)
def test_labels_are_those_of_a_reader_who_walks_the_tokens(renderers, name):
    renderer, seen = renderers[name], []

    @settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], database=None)
    @given(conversations(*CASES[name]))
    def check(row):
        encoded = renderer.encode(row)
        expected = oracle(name, renderer, encoded.tokens, row)
        assert encoded.labels == expected, renderer.pieces(encoded)
        seen.append(any(expected))

    check()
    assert sum(seen) > 20
