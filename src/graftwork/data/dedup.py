"""A data set without rows that stood before: the same, but for case and space the same, or nearly so."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from graftwork.data.near import THRESHOLD, near_duplicates, text_of
from graftwork.data.report import UsableRow
from graftwork.data.rows import Row, fingerprint, loose_fingerprint

How = Literal["exact", "loose", "near"]


@dataclass(frozen=True, slots=True)
class Dropped:
    """A row that was left out.

    Attributes:
        line: its place in the file; ``of``: that of the row that is kept for it.
        how: ``exact``: equal bytes; ``loose``: equal but for case and white space; ``near``: by overlap.
        similarity: the overlap of their texts.
    """

    line: int
    of: int
    how: How
    similarity: float


@dataclass(frozen=True, slots=True)
class Deduplicated:
    """What is kept, in the file's order, and what was dropped and why."""

    kept: tuple[UsableRow, ...]
    dropped: tuple[Dropped, ...]

    @property
    def rows(self) -> list[Row]:
        """The kept rows."""
        return [item.row for item in self.kept]

    def to_json(self) -> dict[str, Any]:
        """Counts by kind, and every row that was dropped."""
        by_kind = {how: sum(one.how == how for one in self.dropped) for how in ("exact", "loose", "near")}
        return {
            "rows": len(self.kept) + len(self.dropped),
            "kept": len(self.kept),
            **by_kind,
            "dropped": [asdict(one) for one in self.dropped],
        }


def dedup(rows: Sequence[UsableRow], threshold: float | None = THRESHOLD) -> Deduplicated:
    """Leave out every row that is like an earlier one that is kept.

    Args:
        rows: of one file.
        threshold: overlap from which rows are near duplicates; None leaves those in.

    Raises:
        ValueError: a threshold outside (0, 1].
    """
    exact: dict[str, int] = {}
    loose: dict[str, int] = {}
    kept: list[UsableRow] = []
    dropped: list[Dropped] = []
    for item in rows:
        first = exact.setdefault(fingerprint(item.row), item.line)
        alike = loose.setdefault(loose_fingerprint(item.row), item.line)
        if first != item.line:
            dropped.append(Dropped(item.line, first, "exact", 1.0))
        elif alike != item.line:
            dropped.append(Dropped(item.line, alike, "loose", 1.0))
        else:
            kept.append(item)
    if threshold is None:
        return Deduplicated(tuple(kept), tuple(dropped))
    near = near_duplicates([text_of(item.row) for item in kept], threshold)
    out = {one.index for one in near}
    dropped += [Dropped(kept[n.index].line, kept[n.of].line, "near", n.similarity) for n in near]
    dropped.sort(key=lambda one: one.line)
    return Deduplicated(tuple(item for n, item in enumerate(kept) if n not in out), tuple(dropped))
