"""Text that comes in pieces: stop strings across pieces, and tool calls held back until they are whole."""

from __future__ import annotations

import secrets
from typing import Any

import orjson

Json = dict[str, Any]

_OPEN, _CLOSE = "<tool_call>", "</tool_call>"


def _held(text: str, marks: tuple[str, ...]) -> int:
    """How many last characters of ``text`` may be the beginning of a mark."""
    longest = min(len(text), max((len(m) for m in marks), default=1) - 1)
    for size in range(longest, 0, -1):
        tail = text[-size:]
        if any(m.startswith(tail) for m in marks):
            return size
    return 0


class StopMatcher:
    """Passes text on up to the stop string that is complete first; keeps back what may become one.

    The result does not depend on how the text was cut into pieces.
    """

    def __init__(self, stops: tuple[str, ...]) -> None:
        self._stops = stops
        self._kept = ""
        self.stopped = False

    def push(self, text: str) -> str:
        """What may be shown after ``text``; nothing more once ``stopped``."""
        if self.stopped or not self._stops:
            return "" if self.stopped else text
        text = self._kept + text
        found = [(at + len(stop), at) for stop in self._stops if (at := text.find(stop)) >= 0]
        if found:
            self.stopped, self._kept = True, ""
            return text[: min(found)[1]]
        cut = len(text) - _held(text, self._stops)
        self._kept = text[cut:]
        return text[:cut]

    def finish(self) -> str:
        """What was kept back, when the answer ended otherwise."""
        kept, self._kept = self._kept, ""
        return kept


class ToolSplitter:
    """Separates an answer's words from its ``<tool_call>{...}</tool_call>`` blocks, as Qwen models write."""

    def __init__(self) -> None:
        self._kept = ""
        self._calling = False

    def push(self, text: str) -> str:
        """Words that may be shown; from the first call on, everything is kept."""
        self._kept += text
        if self._calling:
            return ""
        at = self._kept.find(_OPEN)
        self._calling = at >= 0
        cut = at if self._calling else len(self._kept) - _held(self._kept, (_OPEN,))
        words, self._kept = self._kept[:cut], self._kept[cut:]
        return words

    def finish(self) -> tuple[str, list[Json]]:
        """Words left, and the calls as OpenAI's ``tool_calls``; broken calls stay words."""
        kept, self._kept = self._kept, ""
        if not self._calling:
            return kept, []
        words: list[str] = []
        calls: list[Json] = []
        for block in kept.split(_OPEN)[1:]:
            body, closed, after = block.partition(_CLOSE)
            call = _tool_call(body) if closed else None
            if call is None:
                words.append(_OPEN + block)
            else:
                calls.append(call)
                words.append(after)
        left = "".join(words)
        return (left if left.strip() else ""), calls


def _tool_call(body: str) -> Json | None:
    try:
        told = orjson.loads(body)
    except orjson.JSONDecodeError:
        return None
    if not isinstance(told, dict) or not isinstance(told.get("name"), str):
        return None
    arguments = told.get("arguments", {})
    text = arguments if isinstance(arguments, str) else orjson.dumps(arguments).decode()
    return {
        "id": f"call_{secrets.token_hex(12)}",
        "type": "function",
        "function": {"name": told["name"], "arguments": text},
    }
