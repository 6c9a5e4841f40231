"""Canonical rows: what every format becomes, what a run folder holds, what the renderer reads.

A row is a plain JSON object of one of five kinds:

- ``chat``: ``{"messages": [{"role", "content", "weight"?, "name"?, "tool_calls"?, "tool_call_id"?,
  "reasoning_content"?}], "tools"?, "parallel_tool_calls"?}``; rendered with the base model's chat template.
- ``completion``: ``{"prompt", "completion"}``; rendered raw, without a template.
- ``text``: ``{"text"}``; rendered raw.
- ``preference``: ``{"input", "preferred_output", "non_preferred_output"}``, OpenAI's shape.
- ``feedback``: ``{"input", "output", "label"}``: one answer (as ``preferred_output`` is written) and whether
  it was wanted.

Keys stand in a fixed order and unknown keys are gone, so that equal rows have equal bytes. What lies below
``tools`` keeps its order: templates print it as JSON, and the order is part of the prompt.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from typing import Any, Literal

import orjson

from graftwork.core.errors import InvalidData

Row = dict[str, Any]
Message = dict[str, Any]
Kind = Literal["chat", "completion", "text", "preference", "feedback"]

_MARKS: tuple[tuple[str, Kind], ...] = (
    ("messages", "chat"),
    ("completion", "completion"),
    ("text", "text"),
    ("preferred_output", "preference"),
    ("output", "feedback"),
)


def kind(row: Row) -> Kind:
    """Which of the five kinds a canonical row is.

    Raises:
        InvalidData: the row is not canonical.
    """
    for key, name in _MARKS:
        if key in row:
            return name
    raise InvalidData(
        f"A row with the fields {', '.join(sorted(row)) or '(none)'} is not canonical.",
        fix="Read the file with graftwork.data.validate and use rows_canonical().",
        code="row_not_canonical",
    )


def canonical(rows: Iterable[Row]) -> bytes:
    """Rows as JSON lines: the bytes of a run's ``data/*.jsonl``; equal rows give equal bytes."""
    return b"".join(dump(row) + b"\n" for row in rows)


def dump(row: Row) -> bytes:
    """One canonical row as one line of JSON, without the newline."""
    return orjson.dumps(row)


def read_canonical(data: bytes) -> list[Row]:
    """The rows of ``canonical`` again.

    Raises:
        InvalidData: a line is not a JSON object; these bytes were not written by ``canonical``.
    """
    rows: list[Row] = []
    for number, line in enumerate(data.split(b"\n"), 1):
        if not line:
            continue
        try:
            row = orjson.loads(line)
        except orjson.JSONDecodeError as error:
            raise _not_canonical(number) from error
        if not isinstance(row, dict):
            raise _not_canonical(number)
        rows.append(row)
    return rows


def _not_canonical(number: int) -> InvalidData:
    return InvalidData(
        f"Line {number} of the canonical data is not a JSON object.",
        fix="Write the run's data with graftwork.data.canonical.",
        code="row_not_canonical",
    )


def fingerprint(row: Row) -> str:
    """sha256 of the row's canonical bytes: equal for exact duplicates only."""
    return hashlib.sha256(dump(row)).hexdigest()


def loose_fingerprint(row: Row) -> str:
    """Like ``fingerprint``, after folding case and runs of white space in all strings."""
    return hashlib.sha256(orjson.dumps(_loose(row))).hexdigest()


def _loose(value: Any) -> Any:
    if isinstance(value, str):
        return re.sub(r"\s+", " ", value).strip().casefold()
    if isinstance(value, list):
        return [_loose(item) for item in value]
    if isinstance(value, dict):
        return {key: _loose(item) for key, item in value.items()}
    return value


def question(row: Row) -> list[Message]:
    """The messages before the answer of a chat row (see ``answer``): what a model is asked."""
    return list(row["messages"][: _last_answer(row)])


def answer(row: Row) -> str:
    """The words of the last assistant message that is learnt, or the completion; ``""`` for a tool call.

    A message of weight 0 is nobody's aim: no model is asked for it.
    """
    if "completion" in row:
        return str(row["completion"])
    return str(row["messages"][_last_answer(row)].get("content") or "")


def _last_answer(row: Row) -> int:
    messages = row["messages"]
    for index in range(len(messages) - 1, -1, -1):
        if messages[index]["role"] == "assistant" and messages[index].get("weight") != 0:
            return index
    raise InvalidData(
        "The row has no assistant message that is learnt.",
        fix="End the conversation with the assistant's answer.",
        code="no_assistant_message",
    )
