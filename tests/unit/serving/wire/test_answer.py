"""One choice: what of a step becomes text, entries and counts."""

from __future__ import annotations

import pytest

from graftwork.core.errors import PlatformError
from graftwork.serving.wire.answer import Choice, Counts
from graftwork.serving.wire.backend import Scored, Step
from graftwork.testing.fake_engine import WordCodec


def _run(steps: list[str | Step], stops: tuple[str, ...] = (), tools: bool = False) -> tuple[list, Counts]:
    """Feed words (each one token) and steps to a choice."""
    codec = WordCodec()
    choice = Choice(0, codec, stops, logprobs=True, tools=tools)
    counts = Counts(prompt=3)
    pieces = []
    for step in steps:
        if isinstance(step, str):
            (token,) = codec.encode(step, special=False)
            step = Step(tokens=(Scored(token, -1.0),), generated=1)
        if not choice.ended:
            pieces.append(choice.feed(step, counts))
    return pieces, counts


END = Step(generated=1, finish="stop")


def test_text_entries_and_counts() -> None:
    pieces, counts = _run(["one", " two", END])
    assert "".join(p.text for p in pieces) == "one two"
    assert [e.offset for p in pieces for e in p.entries] == [0, 3]
    assert [p.finish for p in pieces] == [None, None, "stop"]
    assert counts.json() == {"prompt_tokens": 3, "completion_tokens": 3, "total_tokens": 6}


def test_entries_behind_a_stop_string_never_come_out() -> None:
    pieces, _ = _run(["one", " two", " three", " four"], stops=("o three",))
    assert "".join(p.text for p in pieces) == "one tw"
    assert [e.offset for p in pieces for e in p.entries] == [0, 3]
    assert pieces[-1].finish == "stop"
    assert len(pieces) == 3


def test_entries_wait_for_their_text() -> None:
    pieces, _ = _run(["one", " tw", " end", Step(finish="length")], stops=(" twenty",))
    assert [len(p.entries) for p in pieces] == [1, 0, 2, 0]
    assert "".join(p.text for p in pieces) == "one tw end"


def test_a_call_ends_as_tool_calls() -> None:
    pieces, _ = _run(["see", '<tool_call>{"name":"f"}</tool_call>', END], tools=True)
    assert [p.text for p in pieces] == ["see", "", ""]
    assert pieces[-1].finish == "tool_calls"
    assert pieces[-1].tool_calls[0]["function"] == {"name": "f", "arguments": "{}"}


def test_an_error_is_raised() -> None:
    with pytest.raises(PlatformError):
        _run(["one", Step(error=PlatformError("broken"))])
