"""What a caller may send: the allow-list and every bound."""

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from graftwork.core.errors import InvalidRequest
from graftwork.gateway.requests import CHAT, COMPLETIONS, parse

HELLO = [{"role": "user", "content": "hello"}]


def chat(**fields):
    return parse(CHAT, orjson.dumps({"model": "support", "messages": HELLO} | fields))


def complete(**fields):
    return parse(COMPLETIONS, orjson.dumps({"model": "support", "prompt": "hello"} | fields))


def refused(call, **fields):
    with pytest.raises(InvalidRequest) as caught:
        call(**fields)
    return caught.value


def test_a_request_is_rebuilt_with_the_engines_name():
    asked = chat(temperature=0.5, n=2, max_tokens=10, user="alice", metadata={"a": "b"}, store=True)
    assert orjson.loads(asked.body("f" * 32)) == {
        "model": "f" * 32,
        "messages": HELLO,
        "temperature": 0.5,
        "n": 2,
        "max_tokens": 10,
    }
    assert asked.model == "support"
    assert asked.output_tokens == 20


def test_null_is_as_if_it_were_not_there():
    assert orjson.loads(chat(stop=None, whatever=None, stream=None).body("x")).keys() == {"model", "messages"}


def test_the_newer_token_limit_goes_by_its_older_name():
    assert chat(max_completion_tokens=7, max_tokens=9).fields["max_tokens"] == 7


def test_a_stream_always_counts_and_remembers_whether_the_caller_asked():
    plain, asked = chat(stream=True), chat(stream=True, stream_options={"include_usage": True, "x": 1})
    wanted = {"include_usage": True, "continuous_usage_stats": True}
    assert plain.fields["stream_options"] == asked.fields["stream_options"] == wanted
    assert (plain.wants_usage, asked.wants_usage) == (False, True)


@pytest.mark.parametrize(
    "name",
    [
        "cache_salt",
        "lora_path",
        "lora_request",
        "request_id",
        "priority",
        "chat_template",
        "add_special_tokens",
    ],
)
def test_what_an_engine_must_not_see_is_refused(name):
    error = refused(chat, **{name: "x"})
    assert (error.code, error.param) == ("unknown_parameter", name)


@pytest.mark.parametrize(
    ("name", "good", "bad"),
    [
        ("n", [1, 8], [0, 9, 1.5, True, "2", 2**62]),
        ("max_tokens", [1, 131_072], [0, -1, 131_073, "9"]),
        ("max_completion_tokens", [1], [0, 131_073]),
        ("temperature", [0, 2, 0.5], [-0.1, 2.1, "1", True]),
        ("top_p", [0, 1], [-0.1, 1.1]),
        ("seed", [-(2**63), 2**63 - 1], [2**63, 1.0]),
        ("presence_penalty", [-2, 2], [3]),
        ("frequency_penalty", [-2, 2], [-3]),
        ("top_logprobs", [0, 20], [21, -1]),
        ("logprobs", [True], [3]),
        ("stream", [True], [1, "yes"]),
        ("stop", ["a", ["a"] * 4, []], ["", ["a"] * 5, "a" * 257, [1], {}]),
        ("tools", [[], [{}]], [{}, [1], [{}] * 129]),
        ("tool_choice", ["auto", {}], [1]),
        ("response_format", [{"type": "text"}], ["text"]),
        ("parallel_tool_calls", [False], ["no"]),
    ],
)
def test_every_field_is_bounded(name, good, bad):
    for value in good:
        chat(**{name: value})
    for value in bad:
        assert refused(chat, **{name: value}).param == name


@pytest.mark.parametrize(
    "messages",
    [
        None,
        [],
        "hello",
        [1],
        [{"content": "x"}],
        [{"role": "wizard", "content": "x"}],
        [{"role": "user"}],
        [{"role": "user", "content": 3}],
        [{"role": "user", "content": []}],
        [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "http://x"}}]}],
        [{"role": "assistant", "content": None}],
        HELLO * 2049,
    ],
)
def test_messages_are_checked(messages):
    assert refused(chat, messages=messages).param.startswith("messages")


def test_text_parts_and_tool_calls_are_messages_too():
    chat(
        messages=[
            {"role": "developer", "content": [{"type": "text", "text": "a"}]},
            {"role": "assistant", "content": None, "tool_calls": [{"id": "call_1"}]},
            {"role": "tool", "tool_call_id": "call_1", "content": "b"},
        ]
    )


def test_prompts_and_their_estimates():
    assert complete(prompt=[1, 2, 3]).prompt_tokens == 3
    assert complete(prompt="x" * 4000).prompt_tokens > 1000
    assert complete(prompt=["a", "b"], max_tokens=5, n=2).output_tokens == 20
    assert complete(prompt=[[1], [2, 3]]).output_tokens == 32
    assert complete(max_tokens=0, echo=True, logprobs=5).output_tokens == 0


@pytest.mark.parametrize("prompt", [None, [], {}, 3, ["a", 1], [[]], ["a"] * 33, [-1], [True], [[1.5]]])
def test_prompts_are_checked(prompt):
    assert refused(complete, prompt=prompt).param == "prompt"


@pytest.mark.parametrize("model", [None, "", 3, "x" * 513])
def test_the_model_is_named(model):
    assert refused(chat, model=model).param == "model"


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"3", b'{"model": NaN}', b"\xff", b'{"a":"\\ud800"}'])
def test_bodies_that_are_no_json_object(body):
    with pytest.raises(InvalidRequest) as caught:
        parse(CHAT, body)
    assert caught.value.code == "invalid_json"


def test_stream_options_need_a_stream():
    assert refused(chat, stream_options={"include_usage": True}).param == "stream_options"


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@given(
    st.dictionaries(st.sampled_from(sorted([*CHAT.checks, "model", "lora", "user"])), JSON),
    st.sampled_from([CHAT, COMPLETIONS]),
)
def test_whatever_is_sent_is_refused_cleanly_or_rebuilt_from_the_allow_list(fields, route):
    try:
        asked = parse(route, orjson.dumps(fields))
    except InvalidRequest as error:
        assert error.param or error.code == "invalid_json"
    else:
        assert orjson.loads(asked.body("x")).keys() <= route.checks.keys() | {"model"}
