"""Bodies: what is understood, and what is refused rather than ignored."""

from __future__ import annotations

import pytest

from graftwork.core.errors import InvalidRequest
from graftwork.data.messages import template_messages
from graftwork.serving.wire.requests import (
    ChatRequest,
    CompletionRequest,
    parse,
    plain_messages,
    refuse_unsupported,
)

CHAT = b'{"model": "m", "messages": [{"role": "user", "content": "hi"}]'


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        (b'"text"', ["text"]),
        (b"[1, 2]", [[1, 2]]),
        (b'["a", "b"]', ["a", "b"]),
        (b"[[1], [2, 3]]", [[1], [2, 3]]),
    ],
)
def test_prompts_in_all_forms(prompt: bytes, expected: list) -> None:
    request = parse(CompletionRequest, b'{"model": "m", "prompt": ' + prompt + b"}")
    assert request.prompts == expected


@pytest.mark.parametrize("prompt", [b"[]", b'[1, "a"]', b"[-1]", b"[1.5]", b"[[]]", b"5", b"null"])
def test_prompts_in_no_form(prompt: bytes) -> None:
    with pytest.raises(InvalidRequest) as caught:
        parse(CompletionRequest, b'{"model": "m", "prompt": ' + prompt + b"}")
    assert caught.value.param == "prompt"


def test_a_missing_field_has_its_code() -> None:
    with pytest.raises(InvalidRequest) as caught:
        parse(ChatRequest, b'{"model": "m"}')
    assert (caught.value.code, caught.value.param) == ("missing_required_parameter", "messages")


def test_unknown_fields_are_let_be() -> None:
    request = parse(ChatRequest, CHAT + b', "user": "u", "metadata": {}, "store": false}')
    refuse_unsupported(request)
    assert request.model == "m"


@pytest.mark.parametrize(
    "extra",
    [
        b'"tool_choice": {"type": "function"}',
        b'"presence_penalty": 1',
        b'"response_format": {"type": "json"}',
    ],
)
def test_what_would_change_the_answer_is_not_ignored(extra: bytes) -> None:
    with pytest.raises(InvalidRequest) as caught:
        refuse_unsupported(parse(ChatRequest, CHAT + b", " + extra + b"}"))
    assert caught.value.code == "unsupported_parameter"


def test_neutral_values_are_welcome() -> None:
    extra = b', "presence_penalty": 0, "response_format": {"type": "text"}, "tool_choice": "auto"}'
    refuse_unsupported(parse(ChatRequest, CHAT + extra))


@pytest.mark.parametrize("field", [b'"suffix": "x"', b'"best_of": 3'])
def test_completions_refuse_too(field: bytes) -> None:
    request = parse(CompletionRequest, b'{"model": "m", "prompt": "x", ' + field + b"}")
    with pytest.raises(InvalidRequest):
        refuse_unsupported(request)


def test_content_parts_become_text() -> None:
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    messages = plain_messages([{"role": "user", "content": parts}, {"role": "assistant", "content": None}])
    assert [m["content"] for m in messages] == ["ab", ""]


def test_tool_calls_without_words_are_shown_to_the_template_as_in_training() -> None:
    function = {"name": "look", "arguments": "{}"}
    call = {"id": "c", "type": "function", "function": function}
    calls = {"role": "assistant", "content": None, "tool_calls": [call]}
    trained = {"role": "assistant", "tool_calls": [call]}  # the canonical row has no content
    assert template_messages(plain_messages([calls])) == template_messages([trained])


@pytest.mark.parametrize(
    "message",
    [
        {},
        {"role": 5},
        {"role": "user", "content": 5},
        {"role": "user", "content": [{"type": "image_url"}]},
        {"role": "assistant", "tool_calls": ["look"]},
        {"role": "assistant", "tool_calls": {}},
    ],
)
def test_messages_without_text_are_refused_with_their_place(message: dict) -> None:
    with pytest.raises(InvalidRequest, match=r"messages\[1\]"):
        plain_messages([{"role": "user", "content": "x"}, message])
