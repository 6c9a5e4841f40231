"""Rewriting of answers, whole and streamed, however the stream is cut."""

import json
from itertools import pairwise

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graftwork.core.errors import PlatformError
from graftwork.gateway.answers import Relay, usage_of, whole

OURS, MODEL = "chatcmpl-ours", "support"
NASTY = 'he said "id":"eng-1" and "model":"' + "f" * 32 + '" and ,"usage":null and [DONE] \u2028 é'


def chunk(delta, *, usage=..., finish=None, **extra):
    body = {
        "id": "eng-1",
        "object": "chat.completion.chunk",
        "created": 5,
        "model": "f" * 32,
        "choices": [{"index": 0, "delta": {"content": delta}, "finish_reason": finish}],
    } | extra
    if usage is not ...:
        body["usage"] = usage
    return body


def usage(completion):
    return {"prompt_tokens": 7, "completion_tokens": completion, "total_tokens": 7 + completion}


LAST = chunk("", choices=[], usage=usage(3))
STYLES = {
    "compact": lambda body: orjson.dumps(body),
    "spaced": lambda body: json.dumps(body).encode(),
    "model first": lambda body: orjson.dumps({"model": body["model"]} | body),
    "usage first": lambda body: orjson.dumps(({"usage": body["usage"]} if "usage" in body else {}) | body),
}
KINDS = {
    "one usage at the end": [chunk("a"), chunk(NASTY), chunk("", finish="stop"), LAST],
    "null until the end": [chunk(t, usage=None) for t in ("a", NASTY, "")] + [LAST],
    "counted as it goes": [chunk(t, usage=usage(i)) for i, t in enumerate(("a", NASTY, ""))] + [LAST],
}


def stream(bodies, style):
    return b"".join(b"data: " + style(body) + b"\n\n" for body in bodies) + b"data: [DONE]\n\n"


def relayed(data, cuts=(), *, wants_usage=False):
    relay = Relay(OURS, MODEL, wants_usage=wants_usage)
    edges = [0, *sorted(c for c in cuts if c < len(data)), len(data)]
    out = b"".join(relay.feed(data[a:b]) for a, b in pairwise(edges))
    return relay, out, relay.end()


def events(data):
    assert data.endswith(b"\n\n") or not data
    return [orjson.loads(e.removeprefix(b"data: ")) for e in data.split(b"\n\n")[:-1] if e != b"data: [DONE]"]


@pytest.mark.parametrize("style", STYLES.values(), ids=STYLES)
@pytest.mark.parametrize("bodies", KINDS.values(), ids=KINDS)
@pytest.mark.parametrize("wants_usage", [False, True])
def test_ids_and_names_are_ours_and_the_rest_is_untouched(bodies, style, wants_usage):
    relay, out, tail = relayed(stream(bodies, style), wants_usage=wants_usage)
    expected = []
    for body in bodies[:-1]:
        body = body | {"id": OURS, "model": MODEL}
        body.pop("usage", None)
        expected.append(body)
    assert events(out) == expected
    assert tail.endswith(b"data: [DONE]\n\n")
    assert events(tail) == ([LAST | {"id": OURS, "model": MODEL}] if wants_usage else [])
    assert relay.usage == {"prompt_tokens": 7, "completion_tokens": 3}
    assert relay.pieces == 3


@settings(max_examples=80, deadline=None)
@given(
    st.sampled_from(list(KINDS.values())),
    st.sampled_from(list(STYLES.values())),
    st.lists(st.integers(1, 1200), max_size=30),
    st.booleans(),
)
def test_cuts_do_not_matter(bodies, style, cuts, crlf):
    data = stream(bodies, style)
    if crlf:
        data = data.replace(b"\n", b"\r\n")
    assert relayed(data, cuts)[1:] == relayed(stream(bodies, style))[1:]


@given(st.lists(st.text(max_size=30), max_size=6))
def test_any_text_passes_through(texts):
    _, out, _ = relayed(stream([chunk(t) for t in texts] + [LAST], orjson.dumps))
    assert [e["choices"][0]["delta"]["content"] for e in events(out)] == texts


def test_a_running_count_is_known_before_the_end():
    relay = Relay(OURS, MODEL, wants_usage=False)
    for count in (1, 2):
        relay.feed(b"data: " + orjson.dumps(chunk("x", usage=usage(count))) + b"\n\n")
        assert relay.usage == {"prompt_tokens": 7, "completion_tokens": count}


def test_comments_are_dropped():
    _, out, _ = relayed(b": ping\n\n" + stream([chunk("a"), LAST], orjson.dumps))
    assert len(events(out)) == 1


@pytest.mark.parametrize(
    "data",
    [
        stream([chunk("a"), {"error": {"message": "CUDA at /srv/secret"}}, LAST], orjson.dumps),
        stream([chunk("a"), chunk("b", error={"message": "x"}), LAST], orjson.dumps),
        stream([{"error": "x"}], orjson.dumps),
        stream([chunk("a")], orjson.dumps),
        stream([chunk("a"), LAST], orjson.dumps).removesuffix(b"data: [DONE]\n\n"),
        stream([chunk("a"), LAST], orjson.dumps) + stream([chunk("late")], orjson.dumps),
        b"data: {nonsense\n\n",
        b"data: 3\n\n",
        stream([chunk("a"), chunk("", choices=[], usage={"prompt_tokens": -1})], orjson.dumps),
        b"data: " + b"x" * (1024 * 1024 + 10),
    ],
    ids=[
        "error",
        "error-with-id",
        "error-first",
        "no-usage",
        "no-done",
        "after-done",
        "not-json",
        "not-object",
        "bad-usage",
        "endless",
    ],
)
def test_a_broken_stream_is_a_failure_that_says_nothing_of_the_inside(data):
    with pytest.raises(PlatformError) as caught:
        relayed(data)
    assert caught.value.code == "upstream_error"
    assert "secret" not in caught.value.text


def test_the_word_error_alone_is_no_failure():
    _, out, _ = relayed(stream([chunk("a"), chunk("error"), LAST], orjson.dumps))
    assert len(events(out)) == 2


def test_a_whole_answer():
    body, used = whole(
        orjson.dumps({"id": "x", "model": "y", "choices": [1], "usage": usage(2)}), OURS, MODEL
    )
    assert orjson.loads(body) == {"id": OURS, "model": MODEL, "choices": [1], "usage": usage(2)}
    assert used == {"prompt_tokens": 7, "completion_tokens": 2}


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"{}",
        orjson.dumps({"error": {"message": "x"}, "choices": [1], "usage": usage(1)}),
        orjson.dumps({"choices": [1]}),
        orjson.dumps({"choices": [1], "usage": {"prompt_tokens": "7"}}),
    ],
)
def test_what_is_no_answer_is_a_failure(body):
    with pytest.raises(PlatformError):
        whole(body, OURS, MODEL)


def test_usage_is_whole_and_sane():
    assert usage_of({"usage": usage(1)}) == {"prompt_tokens": 7, "completion_tokens": 1}
    for bad in (None, {}, {"usage": None}, {"usage": {"prompt_tokens": True, "completion_tokens": 0}}):
        with pytest.raises(PlatformError):
            usage_of(bad or {})
