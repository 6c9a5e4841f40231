"""Kept requests as rows to train on: what was asked, and what was answered."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import orjson

from graftwork.data.dedup import dedup
from graftwork.data.report import UsableRow
from graftwork.data.rows import Row
from graftwork.data.validation import validate

_SAID = ("role", "content", "tool_calls", "reasoning_content")
_WHOLE = ("stop", "tool_calls")


@dataclass(frozen=True, slots=True)
class Logged:
    """Rows out of kept requests, in their order, and why others gave none, by reason."""

    rows: tuple[Row, ...]
    seen: int
    skipped: dict[str, int]
    duplicates: int

    def to_json(self) -> dict[str, Any]:
        """Counts."""
        return {
            "requests": self.seen,
            "rows": len(self.rows),
            "skipped": self.skipped,
            "duplicates": self.duplicates,
        }


def rows_of(kept: Iterable[dict[str, Any]], near: float | None = None) -> Logged:
    """Chat rows of ``{"request", "answer"}`` documents.

    An answer that was cut off, or that is no row as the validator wants it, gives none. Rows that are equal
    but for case and white space come once, and near ones (``near``: their overlap) if asked.

    Raises:
        ValueError: a threshold outside (0, 1].
    """
    skipped: Counter[str] = Counter()
    lines: list[bytes] = []
    seen = 0
    for document in kept:
        seen += 1
        row = _row(document)
        if isinstance(row, str):
            skipped[row] += 1
        else:
            lines.append(orjson.dumps(row))
    if not lines:
        return Logged((), seen, dict(skipped), 0)
    report = validate(b"\n".join(lines), filename="kept.jsonl", purpose="any")
    usable = report.usable or ()
    good = {item.line for item in usable}
    first = {finding.line: finding.code for finding in reversed(report.errors)}
    for line in range(1, len(lines) + 1):
        if line not in good:
            skipped[first.get(line, "unusable")] += 1
    found = dedup([UsableRow(item.line, item.row) for item in usable], near)
    return Logged(tuple(found.rows), seen, dict(skipped), len(found.dropped))


def _row(document: dict[str, Any]) -> dict[str, Any] | str:
    """A row as the chat format has it, or why there is none."""
    request, answer = document.get("request") or {}, document.get("answer") or {}
    choices = answer.get("choices") or []
    if not choices or not request.get("messages"):
        return "no_answer"
    choice = choices[0]
    if choice.get("finish_reason") not in _WHOLE:
        return "answer_cut_off"
    message = {
        key: value
        for key, value in (choice.get("message") or {}).items()
        if key in _SAID and value is not None
    }
    asked = {key: request[key] for key in ("tools", "parallel_tool_calls") if key in request}
    return {"messages": [*request["messages"], {"role": "assistant", **message}], **asked}
