"""What a data set is made of: lengths, roles, labels, repetitions, contradictions."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import orjson

from graftwork.core.errors import InvalidData
from graftwork.data.near import THRESHOLD, near_groups, text_of
from graftwork.data.report import Bucket, Report, Size, UsableRow, histogram
from graftwork.data.rows import Row, answer, fingerprint, kind, question

LABEL_LENGTH = 64
"""Characters up to which an answer may be the name of a class."""
MOST_LABELS = 50
SHARE_OF_LABELS = 0.2
"""Answers are classes when there are at most this many different ones for the rows: each comes up again."""
_LISTED = 20


@dataclass(frozen=True, slots=True)
class Spread:
    """A distribution: least, median, 95th of a hundred, most, and mean."""

    least: int
    median: int
    p95: int
    most: int
    mean: float

    @classmethod
    def of(cls, values: Iterable[int]) -> Spread | None:
        """None of no values."""
        found = sorted(values)
        if not found:
            return None
        at = [found[min(len(found) - 1, int(len(found) * share))] for share in (0.5, 0.95)]
        return cls(found[0], at[0], at[1], found[-1], round(sum(found) / len(found), 1))


@dataclass(frozen=True, slots=True)
class Conflict:
    """One question with different answers."""

    lines: tuple[int, ...]
    answers: int


@dataclass(frozen=True, kw_only=True)
class Stats:
    """A data set in numbers.

    Attributes:
        rows: usable ones; ``kinds``: by what they are (chat, completion, …).
        characters: of a row; ``answers``: of an answer.
        tokens: in the base model's own tokens, where they were counted: all, labelled, longest row, over-long
            rows.
        lengths: histogram of tokens (of characters where no tokens were counted).
        messages, turns: messages of a chat, and answers of the assistant in it; ``roles``: messages by role.
        systems: different system messages, and rows without one under ``""``.
        tools: rows that list tools; ``calls``: calls by function.
        labels: answers by how often, where answers are classes; ``balance``: least over most of them.
        duplicates: rows that stood before; ``near``: that are near an earlier one without being the same.
        conflicts: questions with different answers, the first of them.
        findings: what the validator has to say, by code.
    """

    rows: int
    kinds: dict[str, int]
    characters: Spread | None
    answers: Spread | None
    tokens: Size | None
    lengths: tuple[Bucket, ...]
    messages: Spread | None
    turns: Spread | None
    roles: dict[str, int]
    systems: int
    without_system: int
    tools: int
    calls: dict[str, int]
    labels: dict[str, int]
    balance: float | None
    duplicates: int
    near: int | None
    conflicts: tuple[Conflict, ...]
    findings: dict[str, int]

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


def stats(report: Report, near: float | None = THRESHOLD) -> Stats:
    """Numbers of a validated file.

    Args:
        report: of ``validate``, with its rows; with tokens if it was given a renderer.
        near: overlap from which rows are near duplicates; None does not look for them.
    """
    rows = report.usable or ()
    plain = [item.row for item in rows]
    texts = [text_of(row) for row in plain]
    chats = [row["messages"] for row in plain if "messages" in row]
    spoken = [message for messages in chats for message in messages]
    labels = labels_of(plain)
    equal = report.duplicates
    return Stats(
        rows=len(rows),
        kinds=dict(Counter(kind(row) for row in plain)),
        characters=Spread.of(map(len, texts)),
        answers=Spread.of(len(said) for row in plain if (said := answer_of(row)) is not None),
        tokens=report.size,
        lengths=report.lengths or histogram(map(len, texts)),
        messages=Spread.of(map(len, chats)),
        turns=Spread.of(sum(m["role"] == "assistant" for m in messages) for messages in chats),
        roles=dict(Counter(message["role"] for message in spoken)),
        systems=len({str(message.get("content")) for message in spoken if message["role"] == "system"}),
        without_system=sum(all(m["role"] != "system" for m in messages) for messages in chats),
        tools=sum(bool(row.get("tools")) for row in plain),
        calls=dict(_most(call["function"]["name"] for m in spoken for call in m.get("tool_calls", ()))),
        labels=labels,
        balance=round(min(labels.values()) / max(labels.values()), 4) if labels else None,
        duplicates=equal,
        near=None if near is None else max(0, _likes(texts, near) - equal),
        conflicts=conflicts(rows),
        findings=dict(Counter(finding.code for finding in report.findings)),
    )


def answer_of(row: Row) -> str | None:
    """What a row teaches as one text; None of raw text and of tool calls."""
    if "preferred_output" in row or "messages" in row or "completion" in row:
        try:
            said = answer({"messages": row["preferred_output"]} if "preferred_output" in row else row)
        except InvalidData:
            return None
        return said or None
    return None


def labels_of(rows: Sequence[Row]) -> dict[str, int]:
    """Answers by how often they are given, most first; empty when they are no classes.

    They are where every answer is short, and there are few of them for the number of rows.
    """
    said = [answer_of(row) for row in rows]
    if not said or any(one is None or len(one) > LABEL_LENGTH for one in said):
        return {}
    found = Counter(one.strip() for one in said if one is not None)
    few = 1 < len(found) <= min(MOST_LABELS, max(2, SHARE_OF_LABELS * len(said)))
    return dict(sorted(found.items(), key=lambda item: (-item[1], item[0]))) if few else {}


def label_of(rows: Sequence[Row]) -> Callable[[Row], str]:
    """Gives the class of each of these rows: its answer where answers are classes, else the row's kind."""
    if labels_of(rows):
        return lambda row: (answer_of(row) or "").strip()
    return kind


def conflicts(rows: Sequence[UsableRow]) -> tuple[Conflict, ...]:
    """Questions that are answered differently: a model can learn at most one of the answers."""
    asked: dict[str, list[UsableRow]] = {}
    for item in rows:
        key = _asked(item.row)
        if key is not None:
            asked.setdefault(key, []).append(item)
    found: list[Conflict] = []
    for same in asked.values():
        answers = {fingerprint({"answer": answer_of(item.row)}) for item in same}
        if len(answers) > 1:
            found.append(Conflict(tuple(item.line for item in same)[:_LISTED], len(answers)))
    return tuple(sorted(found, key=lambda conflict: conflict.lines)[:_LISTED])


def _asked(row: Row) -> str | None:
    if answer_of(row) is None:
        return None
    if "messages" in row:
        before: Any = [question(row), row.get("tools")]
    else:
        before = row.get("prompt") or row.get("input")
    return hashlib.sha256(orjson.dumps(before)).hexdigest()


def _likes(texts: Sequence[str], threshold: float) -> int:
    """Texts that belong to an earlier one's group."""
    return sum(group != number for number, group in enumerate(near_groups(texts, threshold)))


def _most(values: Iterable[str]) -> list[tuple[str, int]]:
    return Counter(values).most_common(_LISTED)
