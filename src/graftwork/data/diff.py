"""What became of the rows of a data set in its next version."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import orjson

from graftwork.data.near import THRESHOLD, Index, similarity, text_of
from graftwork.data.report import UsableRow
from graftwork.data.rows import Row, fingerprint, question
from graftwork.data.stats import answer_of


@dataclass(frozen=True, slots=True)
class Changed:
    """A row that was altered: its places in both files, how alike the texts are, and what differs.

    ``by`` is ``question`` where the same is asked and the answer differs, ``near`` where the texts are alike.
    """

    before: int
    after: int
    by: str
    similarity: float
    fields: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Difference:
    """Lines of the rows only before, only after, and altered; and how many stayed as they were."""

    removed: tuple[int, ...]
    added: tuple[int, ...]
    changed: tuple[Changed, ...]
    same: int
    moved: int
    """Rows that stayed but stand elsewhere among those that stayed."""

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {**asdict(self), "equal": not (self.removed or self.added or self.changed)}


def diff(before: Sequence[UsableRow], after: Sequence[UsableRow], threshold: float = THRESHOLD) -> Difference:
    """Compare two versions of a data set by what their rows say, whatever format they are written in.

    Rows with equal content stayed. Of the others, one that asks what another asked was changed, then one that
    is near another (``threshold``); what is left was removed or added.

    Raises:
        ValueError: a threshold outside (0, 1].
    """
    pairs, old, new = _equal(before, after)
    moved = sum(1 for one, two in itertools.pairwise(pairs) if two[1] < one[1])
    changed = _by_question(old, new)
    changed += _by_likeness(old, new, threshold)
    changed.sort(key=lambda one: one.before)
    return Difference(
        removed=tuple(sorted(item.line for item in old.values())),
        added=tuple(sorted(item.line for item in new.values())),
        changed=tuple(changed),
        same=len(pairs),
        moved=moved,
    )


Rows = dict[int, UsableRow]


def _equal(
    before: Sequence[UsableRow], after: Sequence[UsableRow]
) -> tuple[list[tuple[int, int]], Rows, Rows]:
    """Places of equal rows in both files, each row used once, and the rows that are left."""
    waiting: dict[str, list[UsableRow]] = {}
    for item in after:
        waiting.setdefault(fingerprint(item.row), []).append(item)
    for same in waiting.values():
        same.reverse()
    old: Rows = {}
    pairs: list[tuple[int, int]] = []
    for item in before:
        same = waiting.get(fingerprint(item.row))
        if same:
            pairs.append((item.line, same.pop().line))
        else:
            old[item.line] = item
    new = {item.line: item for same in waiting.values() for item in same}
    return pairs, old, new


def _by_question(old: Rows, new: Rows) -> list[Changed]:
    asked: dict[str, list[UsableRow]] = {}
    for line in sorted(new, reverse=True):
        asked.setdefault(_asked(new[line].row), []).append(new[line])
    return [
        _changed(old.pop(line), new.pop(same.pop().line), "question")
        for line in sorted(old)
        if (same := asked.get(_asked(old[line].row)))
    ]


def _by_likeness(old: Rows, new: Rows, threshold: float) -> list[Changed]:
    index = Index(threshold)
    for line in sorted(new):
        index.add(line, text_of(new[line].row))
    found: list[Changed] = []
    for line in sorted(old):
        for other, _ in index.near(text_of(old[line].row), skip=lambda number: number not in new):
            if other in new:
                found.append(_changed(old.pop(line), new.pop(other), "near"))
                break
    return found


def _changed(before: UsableRow, after: UsableRow, by: str) -> Changed:
    keys = before.row.keys() | after.row.keys()
    fields = sorted(key for key in keys if before.row.get(key) != after.row.get(key))
    said = answer_of(before.row) != answer_of(after.row)
    alike = similarity(text_of(before.row), text_of(after.row))
    return Changed(before.line, after.line, by, round(alike, 4), (*fields, *(["answer"] if said else [])))


def _asked(row: Row) -> str:
    """What is asked, as a key; a row that asks nothing is asked by its own text."""
    if answer_of(row) is None:
        return fingerprint(row)
    before: Any = question(row) if "messages" in row else row.get("prompt") or row.get("input")
    return hashlib.sha256(orjson.dumps(before)).hexdigest()
