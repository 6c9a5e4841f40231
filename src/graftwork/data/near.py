"""Rows that say nearly the same: found without comparing each with each.

Two rows are *near* when the sets of 5-character pieces of their texts overlap by a threshold (Jaccard). Pairs
worth comparing come from locality-sensitive hashing of MinHash signatures (Broder 1997; Indyk and Motwani
1998); each such pair is then compared exactly, so no two rows are called near that are not, and of those that
are at the threshold at least 99 in 100 are found.
System messages and tools are no part of the text: a prompt that all rows share makes none of them alike.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from graftwork.data.rows import Row

THRESHOLD = 0.8
"""Overlap from which two rows count as near duplicates."""
PIECE = 5
"""Characters in a piece; a shorter text is one piece."""
_HASHES = 128
_RECALL = 0.99
"""Share of the pairs at the threshold that the bands must find."""
_CROWD = 1000
"""Texts entered in one band: one that more of them share tells little."""
_LOOKS = 64
"""Exact comparisons of one text that may fail before it is taken to be like no other."""
_DOUBT = 0.15
"""How far an estimate of the overlap may be off: four standard deviations of 128 hashes."""

Pieces = NDArray[np.uint64]
_PRIMES = np.array([pow(0x100000001B3, n, 1 << 64) for n in range(PIECE)], dtype=np.uint64)
_SEED = 0x67726166


def text_of(row: Row) -> str:
    """What a row says, for comparison: all that is asked and answered; case and white space folded."""
    words = (part for part in _said(row) if part)
    return re.sub(r"\s+", " ", " ".join(words)).strip().casefold()


def _said(value: Any, key: str = "") -> Iterator[str]:
    if isinstance(value, str):
        if key not in ("role", "id", "type", "tool_call_id"):
            yield value
    elif isinstance(value, list):
        for item in value:
            yield from _said(item, key)
    elif isinstance(value, dict) and value.get("role") != "system":
        for name, item in value.items():
            if name != "tools":
                yield from _said(item, name)


def similarity(one: str, other: str) -> float:
    """Jaccard overlap of two texts' pieces, from 0 to 1."""
    a, b = _pieces(one), _pieces(other)
    common = len(np.intersect1d(a, b, assume_unique=True))
    return common / max(len(a) + len(b) - common, 1)


@dataclass(frozen=True, slots=True)
class Near:
    """A row that is like an earlier one.

    Attributes:
        index: the row; ``of``: the first it is like.
        similarity: their overlap; 1.0 for equal texts.
    """

    index: int
    of: int
    similarity: float


def near_duplicates(texts: Sequence[str], threshold: float = THRESHOLD) -> list[Near]:
    """The texts that are near one kept before them, in order; all others are kept.

    Raises:
        ValueError: a threshold outside (0, 1].
    """
    index = Index(threshold)
    found: list[Near] = []
    for number, text in enumerate(texts):
        near = next(index.near(text), None)
        if near is None:
            index.add(number, text)
        else:
            found.append(Near(number, *near))
    return found


def near_groups(texts: Sequence[str], threshold: float = THRESHOLD) -> list[int]:
    """For each text the number of its group: texts that are near, directly or through others, share one.

    A group's number is that of its first text.

    Raises:
        ValueError: a threshold outside (0, 1].
    """
    index, parent = Index(threshold), list(range(len(texts)))

    def root(number: int) -> int:
        while parent[number] != number:
            parent[number] = parent[parent[number]]
            number = parent[number]
        return number

    for number, text in enumerate(texts):
        for other, _ in index.near(text, skip=lambda seen, me=number: root(seen) == root(me)):
            low, high = sorted((root(number), root(other)))
            parent[high] = low
        index.add(number, text)
    return [root(number) for number in range(len(texts))]


class Index:
    """Texts by their bands: gives the few that a new text must be compared with.

    Attributes:
        compared: pairs compared exactly so far.
    """

    def __init__(self, threshold: float = THRESHOLD) -> None:
        """Bands so wide that pairs at ``threshold`` are found with ``_RECALL``.

        Raises:
            ValueError: a threshold outside (0, 1].
        """
        if not 0 < threshold <= 1:
            raise ValueError("the threshold of near duplicates is above 0 and at most 1")
        self._threshold = threshold
        self._width = _band_width(threshold)
        self._bands: dict[tuple[int, bytes], list[int]] = {}
        self._texts: list[str] = []
        self._numbers: list[int] = []
        self._signatures = np.empty((1024, _HASHES), dtype=np.uint32)
        self._equal: dict[str, int] = {}
        self.compared = 0

    def add(self, number: int, text: str) -> None:
        """Keep a text under a number. Equal texts stand for each other: the first of them is kept."""
        if self._equal.setdefault(text, number) != number:
            return
        place = len(self._texts)
        if place == len(self._signatures):
            self._signatures = np.concatenate([self._signatures, np.empty_like(self._signatures)])
        self._signatures[place] = signature = _signature(text)
        self._texts.append(text)
        self._numbers.append(number)
        for band in self._bands_of(signature):
            shared = self._bands.setdefault(band, [])
            if len(shared) < _CROWD:
                shared.append(place)

    def near(self, text: str, skip: Callable[[int], bool] | None = None) -> Iterator[tuple[int, float]]:
        """Kept texts that are near, with their similarity; the likeliest first.

        ``skip`` says of a number whether it need not be compared any more.
        """
        equal = self._equal.get(text)
        if equal is not None and not (skip and skip(equal)):
            yield equal, 1.0
            return
        signature = _signature(text)
        places = {place for band in self._bands_of(signature) for place in self._bands.get(band, ())}
        if not places:
            return
        candidates = np.array(sorted(places))
        likely = (self._signatures[candidates] == signature).mean(axis=1)
        failed = 0
        for at in np.argsort(-likely, kind="stable"):
            if likely[at] < self._threshold - _DOUBT or failed == _LOOKS:
                return
            place = int(candidates[at])
            if skip is not None and skip(self._numbers[place]):
                continue
            self.compared += 1
            overlap = similarity(text, self._texts[place])
            if overlap >= self._threshold:
                yield self._numbers[place], round(overlap, 4)
            else:
                failed += 1

    def _bands_of(self, signature: NDArray[np.uint32]) -> list[tuple[int, bytes]]:
        width = self._width
        return [
            (start, signature[start : start + width].tobytes())
            for start in range(0, _HASHES - width + 1, width)
        ]


@lru_cache(maxsize=4096)
def _pieces(text: str) -> Pieces:
    """Hashes of the distinct pieces of a text, sorted."""
    codes = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype=np.uint32).astype(np.uint64)
    count = max(len(codes) - PIECE + 1, 1)
    hashes = np.zeros(count, dtype=np.uint64)
    for offset in range(min(PIECE, len(codes))):
        hashes += (codes[offset : offset + count] + np.uint64(1)) * _PRIMES[offset]
    return np.unique(_mixed(hashes))


def _mixed(values: Pieces) -> Pieces:
    """Spread the bits (the finalizer of splitmix64)."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def _signature(text: str) -> NDArray[np.uint32]:
    """The least of a text's pieces under each of ``_HASHES`` orders."""
    least = np.full(_HASHES, np.iinfo(np.uint32).max, dtype=np.uint32)
    factors, terms = _orders()
    pieces = _pieces(text)
    for start in range(0, len(pieces), 2048):
        hashed = (pieces[start : start + 2048, None] * factors + terms) >> np.uint64(32)
        least = np.minimum(least, hashed.min(axis=0).astype(np.uint32))
    return least


@lru_cache(maxsize=1)
def _orders() -> tuple[Pieces, Pieces]:
    """Odd factors and terms: ``(factor * x + term) >> 32`` orders the pieces anew (multiply-shift)."""
    drawn = np.random.default_rng(_SEED).integers(0, 1 << 63, size=(2, _HASHES), dtype=np.uint64)
    return drawn[0] * np.uint64(2) + np.uint64(1), drawn[1]


@lru_cache(maxsize=64)
def _band_width(threshold: float) -> int:
    """The most rows of a band with which pairs at the threshold share one of the bands often enough."""
    widths = [width for width in range(1, 17) if _found(threshold, width) >= _RECALL]
    return max(widths, default=1)


def _found(threshold: float, width: int) -> float:
    return 1 - (1 - threshold**width) ** (_HASHES // width)
