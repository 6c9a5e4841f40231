"""Stop strings and tool calls do not depend on how the text was cut."""

from __future__ import annotations

import json
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from graftwork.serving.wire.stops import StopMatcher, ToolSplitter

pieces = st.lists(st.text("abc", max_size=4), max_size=12)
stops = st.lists(st.text("abc", min_size=1, max_size=4), max_size=3).map(tuple)


def _expected(text: str, wanted: tuple[str, ...]) -> tuple[str, bool]:
    """Read character by character; stop as soon as the text read ends with a stop string."""
    for end in range(1, len(text) + 1):
        ending = [stop for stop in wanted if text[:end].endswith(stop)]
        if ending:
            return text[: end - max(map(len, ending))], True
    return text, False


@given(pieces, stops)
def test_any_cut_gives_the_text_before_the_first_complete_stop(
    cut: list[str], wanted: tuple[str, ...]
) -> None:
    matcher = StopMatcher(wanted)
    shown = "".join(matcher.push(piece) for piece in cut)
    assert (shown + matcher.finish(), matcher.stopped) == _expected("".join(cut), wanted)


@given(pieces, stops)
def test_nothing_is_shown_that_must_be_taken_back(cut: list[str], wanted: tuple[str, ...]) -> None:
    matcher = StopMatcher(wanted)
    expected, _ = _expected("".join(cut), wanted)
    shown = ""
    for piece in cut:
        shown += matcher.push(piece)
        assert expected.startswith(shown)


def test_text_that_cannot_become_a_stop_is_shown_at_once() -> None:
    matcher = StopMatcher(("END",))
    assert matcher.push("words E") == "words "
    assert matcher.push("N") == ""
    assert matcher.push("O") == "ENO"


CALL = '<tool_call>\n{"name": "look", "arguments": {"city": "Köln"}}\n</tool_call>'


@given(st.lists(st.integers(0, 200), max_size=6).map(sorted))
def test_tool_calls_are_found_wherever_the_text_is_cut(cuts: list[int]) -> None:
    text = f"Let me look. {CALL}\n{CALL}"
    splitter = ToolSplitter()
    edges = [0, *(min(cut, len(text)) for cut in cuts), len(text)]
    words = "".join(splitter.push(text[a:b]) for a, b in pairwise(edges))
    rest, calls = splitter.finish()
    assert words + rest == "Let me look. "
    assert [call["function"]["name"] for call in calls] == ["look", "look"]
    assert json.loads(calls[0]["function"]["arguments"]) == {"city": "Köln"}
    assert calls[0]["id"] != calls[1]["id"]


def test_a_broken_call_stays_text() -> None:
    for text in (
        "<tool_call>{oops</tool_call>",
        '<tool_call>{"name": 5}</tool_call>',
        "<tool_call>{}",
        "<tool_c",
    ):
        splitter = ToolSplitter()
        words = splitter.push(text)
        rest, calls = splitter.finish()
        assert (words + rest, calls) == (text, [])


def test_words_without_calls_pass_through() -> None:
    splitter = ToolSplitter()
    assert splitter.push("a < b and ") == "a < b and "
    assert splitter.push("c <") == "c "
    assert splitter.finish() == ("<", [])
