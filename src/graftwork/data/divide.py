"""A data set divided into named parts, so that no part knows another's rows.

Rows that are near duplicates of each other fall into the same part, directly or through others; classes are
spread over the parts in proportion. Which part a row falls into depends on its content, the seed and the
other rows, never on their order.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from graftwork.data.near import THRESHOLD, near_groups, text_of
from graftwork.data.report import UsableRow
from graftwork.data.rows import Row, loose_fingerprint
from graftwork.data.stats import label_of

Label = Callable[[Row], str]


@dataclass(frozen=True, slots=True)
class Division:
    """The parts by name, each in the file's order, and how their rows fall into classes.

    Attributes:
        groups: groups of like rows that were kept together; single rows are not counted.
        classes: part to class to rows; one class where answers are too long or too various to be classes.
    """

    parts: dict[str, tuple[UsableRow, ...]]
    groups: int
    classes: dict[str, dict[str, int]]

    def rows(self, part: str) -> list[Row]:
        """The rows of one part."""
        return [item.row for item in self.parts[part]]

    def to_json(self) -> dict[str, Any]:
        """Counts."""
        sizes = {name: len(rows) for name, rows in self.parts.items()}
        return {"parts": sizes, "groups": self.groups, "classes": self.classes}


def divide(
    rows: Sequence[UsableRow],
    shares: Mapping[str, float],
    seed: int,
    *,
    threshold: float | None = THRESHOLD,
    label: Label | None = None,
) -> Division:
    """Divide rows into parts of about the given shares.

    Args:
        rows: of one file.
        shares: part to its share; together 1. Parts with a share above 0 get a row where there are enough.
        seed: another one divides otherwise.
        threshold: overlap from which rows must stay together; None: only rows equal but for case and space.
        label: the class of a row, spread in proportion; short answers, unless given.

    Raises:
        ValueError: shares that are negative or do not add up to 1, or a bad threshold.
    """
    if any(share < 0 for share in shares.values()) or abs(sum(shares.values()) - 1) > 1e-6:
        raise ValueError("the shares of a split are 0 or more and add up to 1")
    labels = [(label or label_of([item.row for item in rows]))(item.row) for item in rows]
    groups = _groups(rows, threshold)
    placed = _placed(rows, groups, labels, shares, seed)
    parts = {
        name: tuple(item for item, part in zip(rows, placed, strict=True) if part == name) for name in shares
    }
    classes: dict[str, dict[str, int]] = {name: {} for name in shares}
    for name, part in zip(labels, placed, strict=True):
        classes[part][name] = classes[part].get(name, 0) + 1
    return Division(parts, sum(len(group) > 1 for group in groups), classes)


def _groups(rows: Sequence[UsableRow], threshold: float | None) -> list[list[int]]:
    """Indices of rows that belong together."""
    keys: list[Any] = [loose_fingerprint(item.row) for item in rows]
    if threshold is not None:
        first = {key: number for number, key in reversed(list(enumerate(keys)))}
        distinct = sorted(first.values())
        found = near_groups([text_of(rows[number].row) for number in distinct], threshold)
        group_of = {keys[number]: group for number, group in zip(distinct, found, strict=True)}
        keys = [group_of[key] for key in keys]
    groups: dict[Any, list[int]] = {}
    for number, key in enumerate(keys):
        groups.setdefault(key, []).append(number)
    return list(groups.values())


def _placed(
    rows: Sequence[UsableRow],
    groups: list[list[int]],
    labels: list[str],
    shares: Mapping[str, float],
    seed: int,
) -> list[str]:
    """The part of each row.

    Groups stand in the order of their classes, and within one in an order by content and seed; each goes to
    the part that is furthest behind its share so far. So every part gets its share of every class, to within
    a group or so, and its share of all.
    """
    names = [name for name, share in shares.items() if share > 0]
    ordered = sorted(groups, key=lambda group: _order(rows, group, labels, seed))
    size = dict.fromkeys(names, 0)
    homes: list[str] = []
    seen = 0
    for group in ordered:
        seen += len(group)
        home = max(names, key=lambda name: (shares[name] * seen - size[name], shares[name]))
        homes.append(home)
        size[home] += len(group)
    for name in names:
        if size[name] == 0:
            _give_one(name, homes, ordered, size)
    placed = [""] * len(rows)
    for group, home in zip(ordered, homes, strict=True):
        for number in group:
            placed[number] = home
    return placed


def _order(rows: Sequence[UsableRow], group: list[int], labels: list[str], seed: int) -> tuple[str, bytes]:
    """By the group's commonest class, then by content and seed."""
    mine = [labels[number] for number in group]
    common = min(set(mine), key=lambda label: (-mine.count(label), label))
    digest = min(
        hashlib.sha256(f"{seed}:{loose_fingerprint(rows[number].row)}".encode()).digest() for number in group
    )
    return common, digest


def _give_one(name: str, homes: list[str], ordered: list[list[int]], size: dict[str, int]) -> None:
    """Move the smallest group of the largest part to an empty part, if that part has two or more."""
    rich = max(size, key=lambda part: size[part])
    theirs = [at for at, home in enumerate(homes) if home == rich]
    if len(theirs) > 1:
        at = min(theirs, key=lambda at: (len(ordered[at]), at))
        homes[at] = name
        size[rich] -= len(ordered[at])
        size[name] += len(ordered[at])
