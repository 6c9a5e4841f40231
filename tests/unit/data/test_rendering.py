"""Rows to tokens and labels, against an oracle that counts characters by hand."""

import json

import pytest

from graftwork.core.errors import InvalidData, InvalidRequest
from graftwork.data import Renderer

from .conftest import CHATML, CHATML_MARKED

CONVERSATIONS = [
    [("user", "Hi"), ("assistant", "Hello")],
    [
        ("system", "Be brief."),
        ("user", "1+1?"),
        ("assistant", "2"),
        ("user", "And 数?"),
        ("assistant", "🦜é\n\n"),
    ],
    [("user", "a"), ("assistant", "\nstarts with a line"), ("user", " b"), ("assistant", " x ")],
    [("assistant", "I begin"), ("user", "ok"), ("assistant", "Done.")],
    [("user", "twice"), ("assistant", "one"), ("assistant", "two")],
]


def rows():
    for turns in CONVERSATIONS:
        for zero in (None, 0, 1):
            said = 0
            messages = []
            for role, content in turns:
                message = {"role": role, "content": content}
                if role == "assistant":
                    if said == zero:
                        message["weight"] = 0
                    said += 1
                messages.append(message)
            yield {"messages": messages}


def oracle(renderer, row):
    """ChatML written out by hand: each character's label, then each token's by its own offsets."""
    text, labels = "", []
    for message in row["messages"]:
        head, body, tail = f"<|im_start|>{message['role']}\n", message["content"] + "<|im_end|>", "\n"
        heavy = message["role"] == "assistant" and message.get("weight") != 0
        text += head + body + tail
        labels += [False] * len(head) + [heavy] * len(body) + [False] * len(tail)
    encoding = renderer.tokenizer.inner.encode(text, add_special_tokens=False)
    return encoding.ids, [any(labels[start:end]) for start, end in encoding.offsets]


@pytest.mark.parametrize("template", [CHATML, CHATML_MARKED], ids=["by prefix", "by marks"])
def test_words_and_end_of_turn_carry_loss_and_nothing_else(make_folder, template):
    renderer = Renderer.load(make_folder(template))
    for row in rows():
        encoded = renderer.encode(row)
        assert (encoded.tokens, encoded.labels) == oracle(renderer, row), row


def test_a_batch_equals_row_by_row(renderer):
    every = [*rows(), {"prompt": "a ", "completion": "b"}, {"text": "c"}] * 20
    assert list(renderer.encode_all(every, 12)) == [renderer.encode(row, 12) for row in every]


def test_the_prompt_is_the_beginning_of_the_training_text(renderer):
    row = {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yo"}]}
    prompt = renderer.tokenize(renderer.render_prompt(row["messages"][:1]))
    encoded = renderer.encode(row)
    assert encoded.tokens[: len(prompt)] == prompt
    assert encoded.labels.index(True) == len(prompt)


def test_pieces_show_what_carries_loss(renderer):
    row = {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yo 🦜"}]}
    assert renderer.pieces(renderer.encode(row)) == [
        ("<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n", False),
        ("Yo 🦜<|im_end|>", True),
        ("\n", False),
    ]


def test_marks_that_leave_the_end_of_turn_out_get_it_added(make_folder):
    outside = CHATML_MARKED.replace(
        "{{ message.content }}<|im_end|>{% endgeneration %}",
        "{{ message.content }}{% endgeneration %}<|im_end|>",
    )
    assert outside != CHATML_MARKED
    renderer = Renderer.load(make_folder(outside))
    for row in rows():
        encoded = renderer.encode(row)
        assert (encoded.tokens, encoded.labels) == oracle(renderer, row)


def test_a_template_without_an_end_of_turn_token_is_labelled_to_the_next_turn(make_folder):
    plain = CHATML.replace("<|im_end|>", "").replace("<|im_start|>", "## ")
    renderer = Renderer.load(make_folder(plain))
    row = {"messages": [{"role": r, "content": c} for r, c in CONVERSATIONS[1]]}
    said = [text for text, heavy in renderer.pieces(renderer.encode(row)) if heavy]
    assert said == ["2\n", "🦜é\n\n\n"]


def test_a_template_that_rewrites_the_past_is_refused(make_folder):
    """The assistant's first answer is dropped once another message follows."""
    template = (
        "{% for m in messages %}{% if m.role == 'user' or loop.last %}[{{ m.role }} {{ messages|length }}]"
        "{{ m.content }}{% endif %}{% endfor %}{% if add_generation_prompt %}[assistant]{% endif %}"
    )
    renderer = Renderer.load(make_folder(template))
    with pytest.raises(InvalidData) as caught:
        renderer.encode({"messages": [{"role": r, "content": c} for r, c in CONVERSATIONS[1]]})
    assert caught.value.code == "template_not_prefix"
    assert caught.value.param == "messages[2]"


def test_prompt_and_completion_are_tokenized_apart_and_end_with_eos(renderer):
    row = {"prompt": "def f(", "completion": "): pass"}
    encoded = renderer.encode(row)
    prompt, completion = renderer.tokenize("def f("), renderer.tokenize("): pass")
    assert encoded.tokens == [*prompt, *completion, renderer.tokenizer.eos_id]
    assert encoded.labels == [False] * len(prompt) + [True] * (len(completion) + 1)
    assert encoded.tokens[: len(prompt)] == renderer.tokenize_raw("def f(")


def test_text_carries_loss_everywhere(renderer):
    encoded = renderer.encode({"text": "Hello"})
    assert encoded.tokens == [*renderer.tokenize("Hello"), renderer.tokenizer.eos_id]
    assert all(encoded.labels)
    assert encoded.labelled == len(encoded.tokens) - 1


def test_raw_text_takes_the_tokenizers_bos(make_folder):
    folder = make_folder(CHATML)
    content = json.loads((folder / "tokenizer.json").read_text())
    bos = next(token["id"] for token in content["added_tokens"] if token["content"] == "<s>")
    content["post_processor"] = {
        "type": "TemplateProcessing",
        "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {"<s>": {"id": "<s>", "ids": [bos], "tokens": ["<s>"]}},
    }
    (folder / "tokenizer.json").write_text(json.dumps(content))
    renderer = Renderer.load(folder)
    encoded = renderer.encode({"prompt": "a", "completion": "b"})
    assert encoded.tokens[0] == bos and encoded.labels[0] is False
    assert renderer.tokenize("a") == encoded.tokens[1:2]
    assert renderer.encode(next(rows())).tokens[0] != bos


def test_a_long_row_keeps_its_beginning(renderer):
    row = {"text": "one two three four five six"}
    whole = renderer.encode(row)
    cut = renderer.encode(row, 4)
    assert cut.tokens == whole.tokens[:4] and len(cut.labels) == 4
    assert cut.length == len(whole.tokens)


def test_every_end_token_of_the_configs_ends_a_turn(make_folder):
    folder = make_folder(CHATML)
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": [0, 2]}))
    (folder / "config.json").write_text(json.dumps({"eos_token_id": 3}))
    assert Renderer.load(folder).eos_ids == {0, 2, 3}


def test_arguments_of_tool_calls_reach_the_template_as_objects(make_folder):
    template = "{% for c in messages[0].tool_calls %}{{ c.function.arguments | tojson }}{% endfor %}"
    renderer = Renderer.load(make_folder(template))
    call = {"id": "1", "type": "function", "function": {"name": "f", "arguments": '{"b":1,"a":"<é>"}'}}
    messages = [{"role": "assistant", "content": None, "tool_calls": [call]}]
    assert renderer.render_prompt(messages) == '{"b": 1, "a": "<é>"}'


def test_a_refusing_template_says_so(make_folder):
    renderer = Renderer.load(make_folder("{{ raise_exception('no system here') }}"))
    with pytest.raises(InvalidData, match="no system here") as caught:
        renderer.encode(next(rows()))
    assert caught.value.code == "template_error"


@pytest.mark.parametrize(
    "body",
    [
        "{{ 1 + 'a' }}",
        "{{ messages[9].role.x.y }}",
        "{{ 1 / 0 }}",
        "{{ ''.__class__.__mro__ }}",
        "{{ cycler().x.y }}",
    ],
)
def test_whatever_a_template_does_wrong_is_the_datas_error(make_folder, body):
    renderer = Renderer.load(make_folder(body))
    with pytest.raises(InvalidData) as caught:
        renderer.encode(next(rows()))
    assert caught.value.code == "template_error"


def test_a_template_that_does_not_compile_is_refused_at_loading(make_folder):
    with pytest.raises(InvalidRequest) as caught:
        Renderer.load(make_folder("{% for %}"))
    assert caught.value.code == "chat_template_invalid"


def test_no_template_still_renders_raw_rows(make_folder):
    renderer = Renderer.load(make_folder(None))
    assert renderer.template_hash == "none"
    assert renderer.encode({"text": "a"}).labels
    with pytest.raises(InvalidRequest) as caught:
        renderer.encode(next(rows()))
    assert caught.value.code == "chat_template_missing"


def test_templates_may_lie_in_the_tokenizers_config(make_folder):
    for value in (CHATML, [{"name": "tool_use", "template": "x"}, {"name": "default", "template": CHATML}]):
        assert Renderer.load(make_folder(None, chat_template=value)).template.source == CHATML


def test_a_folder_without_a_tokenizer_is_refused(tmp_path):
    with pytest.raises(InvalidRequest, match="tokenizer") as caught:
        Renderer.load(tmp_path)
    assert caught.value.code == "tokenizer_missing"
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(InvalidRequest):
        Renderer.load(tmp_path)


def test_a_thinking_template_trains_what_it_is_asked_with(make_folder):
    """An empty thought belongs to the prompt, not to what is learnt; earlier answers have none at all."""
    template = (
        "{%- for m in messages -%}<|im_start|>{{ m.role }}\n"
        "{%- if m.role == 'assistant' and loop.last %}{{ '\n' }}<think>\n\n</think>\n\n{{ m.content }}"
        "{%- else %}{{ '\n' + m.content }}{%- endif %}<|im_end|>{{ '\n' }}{%- endfor -%}"
        "{%- if add_generation_prompt -%}<|im_start|>assistant{{ '\n' }}"
        "{%- if enable_thinking is defined and enable_thinking is false %}<think>\n\n</think>\n\n{% endif -%}"
        "{%- endif -%}"
    )
    renderer = Renderer.load(make_folder(template))
    messages = [{"role": r, "content": c} for r, c in CONVERSATIONS[1]]
    encoded = renderer.encode({"messages": messages})
    assert [text for text, heavy in renderer.pieces(encoded) if heavy] == ["2<|im_end|>", "🦜é\n\n<|im_end|>"]
    prompt = renderer.render_prompt(messages[:-1])
    assert renderer.decode(encoded.tokens, skip_special_tokens=False).startswith(prompt)
    assert prompt.endswith("<think>\n\n</think>\n\n")
