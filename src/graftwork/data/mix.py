"""One data set out of several, each with its weight."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from graftwork.data.report import UsableRow
from graftwork.data.rows import Row, dump, kind


@dataclass(frozen=True, slots=True)
class Source:
    """Rows to be mixed in, and how many for each of the others' weight."""

    name: str
    rows: Sequence[UsableRow]
    weight: float = 1.0


@dataclass(frozen=True, slots=True)
class Taken:
    """What a source gave: its rows, how many were taken, and how often each of them at most."""

    name: str
    rows: int
    taken: int
    repeated: int


@dataclass(frozen=True, slots=True)
class Mixture:
    """The mixed rows in their shuffled order, and what each source gave."""

    rows: tuple[Row, ...]
    sources: tuple[Taken, ...]

    def to_json(self) -> dict[str, Any]:
        """Counts."""
        return {"rows": len(self.rows), "sources": [asdict(source) for source in self.sources]}


def mix(sources: Sequence[Source], seed: int, total: int | None = None) -> Mixture:
    """Mix sources in proportion to their weights, and shuffle.

    Without ``total`` no row is repeated: the source that is scarcest for its weight is taken whole, the
    others in proportion. With it, exactly so many rows come out; a source that has too few gives each row as
    often as the others of it, to within one.

    Raises:
        ValueError: a weight that is not above 0, no rows in a source, sources of different kinds, or a total
            below the number of sources.
    """
    _check(sources, total)
    weights = [source.weight for source in sources]
    if total is None:
        unit = min(len(source.rows) / source.weight for source in sources)
        counts = [max(1, int(unit * weight + 1e-9)) for weight in weights]
    else:
        counts = _apportioned(weights, total)
    mixed: list[tuple[bytes, Row]] = []
    taken: list[Taken] = []
    for number, (source, count) in enumerate(zip(sources, counts, strict=True)):
        order = sorted(range(len(source.rows)), key=lambda at: _key(seed, number, at, source.rows[at].row))
        times = -(-count // len(order))
        chosen = [order[at % len(order)] for at in range(count)]
        mixed += [
            (_key(seed, number, place, source.rows[at].row, "shuffle"), source.rows[at].row)
            for place, at in enumerate(chosen)
        ]
        taken.append(Taken(source.name, len(order), count, times))
    mixed.sort(key=lambda item: item[0])
    return Mixture(tuple(row for _, row in mixed), tuple(taken))


def _check(sources: Sequence[Source], total: int | None) -> None:
    if not sources or any(source.weight <= 0 for source in sources):
        raise ValueError("a mixture needs sources, each with a weight above 0")
    empty = [source.name for source in sources if not source.rows]
    if empty:
        raise ValueError(f"{empty[0]} has no rows")
    kinds = {kind(source.rows[0].row): source.name for source in sources}
    if len(kinds) > 1:
        listed = ", ".join(f"{name} ({one})" for one, name in kinds.items())
        raise ValueError(f"rows of different kinds cannot be trained on together: {listed}")
    if total is not None and total < len(sources):
        raise ValueError(f"{total} rows cannot hold one of each of {len(sources)} sources")


def _apportioned(weights: Sequence[float], total: int) -> list[int]:
    """Whole numbers in proportion that add up to ``total``, at least 1 each (largest remainders)."""
    whole = sum(weights)
    exact = [weight / whole * total for weight in weights]
    counts = [max(1, int(share)) for share in exact]
    order = sorted(range(len(exact)), key=lambda at: (exact[at] - counts[at], -at), reverse=True)
    while sum(counts) < total:
        counts[order[sum(counts) % len(order)]] += 1
    while sum(counts) > total:
        largest = max(range(len(counts)), key=lambda at: counts[at])
        counts[largest] -= 1
    return counts


def _key(seed: int, source: int, place: int, row: Row, what: str = "choose") -> bytes:
    """An order by content; the place tells equal rows apart."""
    return hashlib.sha256(f"{what}:{seed}:{source}:{place}:".encode() + dump(row)).digest()
