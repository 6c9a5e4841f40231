"""Where rows lie on the token axis, for the parts of a model that go along rows: attention, recurrences."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch

WASTE = 0.15
"""Padding that a batch of rows may carry, as a share of its tokens."""
SHORT = 64
"""Rows shorter than this are worth gathering; a longer one is worth a call of its own."""


@dataclass(frozen=True, slots=True)
class Bucket:
    """Rows of like length."""

    rows: int
    length: int
    """Of the longest row."""
    run: slice | None
    """The rows' tokens, when they are neighbours of one length: then nothing need be gathered."""
    gather: torch.Tensor
    """int64 [rows × length]: the token at each place."""
    inside: torch.Tensor
    """int64: places that are no padding; empty with ``run``."""
    tokens: torch.Tensor
    """int64: the tokens at those places; empty with ``run``."""

    def lay(self, packed: torch.Tensor) -> torch.Tensor:
        """[T, …] to [rows, length, …]."""
        rows = packed[self.run] if self.run is not None else packed.index_select(0, self.gather)
        return rows.unflatten(0, (self.rows, self.length))


class Where:
    """How rows lie on the token axis.

    Args:
        lengths, starts: of each row, in tokens.
        device: of what is gathered.
    """

    def __init__(self, lengths: Sequence[int], starts: Sequence[int], device: torch.device) -> None:
        self._rows, self._device = (lengths, starts), device
        made = torch.tensor([list(starts), list(lengths)], dtype=torch.long)
        self.starts, self.lengths = made[0], made[1]
        """int64 [rows], in main memory."""
        self.longest = max(lengths, default=0)

    @cached_property
    def edges(self) -> torch.Tensor:
        """int32 [rows + 1]: where rows begin, and where the last one ends."""
        lengths, starts = self._rows
        ends = [*starts, starts[-1] + lengths[-1] if starts else 0]
        return torch.tensor(ends, dtype=torch.int32).to(self._device, non_blocking=True)

    @cached_property
    def buckets(self) -> tuple[Bucket, ...]:
        """The rows in batches of like length, for those who cannot go along rows as they lie."""
        return buckets(*self._rows, self._device)


def buckets(
    lengths: Sequence[int], starts: Sequence[int], device: torch.device, waste: float = WASTE
) -> tuple[Bucket, ...]:
    """Cut rows into batches of like length."""
    order = sorted(range(len(lengths)), key=lambda row: -lengths[row])
    groups: list[list[int]] = []
    taken = 0
    runs = _runs([row for row in range(len(lengths)) if lengths[row] >= SHORT], lengths)
    for row in (row for row in order if lengths[row] < SHORT):
        if groups and taken + lengths[row] >= (1 - waste) * lengths[groups[-1][0]] * (len(groups[-1]) + 1):
            groups[-1].append(row)
            taken += lengths[row]
        else:
            groups.append([row])
            taken = lengths[row]
    groups = [*runs, *groups]
    return tuple(_bucket(sorted(group), lengths, starts, device) for group in groups)


def _runs(rows: Sequence[int], lengths: Sequence[int]) -> list[list[int]]:
    """Neighbours of one length together."""
    found: list[list[int]] = []
    for row in rows:
        if found and found[-1][-1] == row - 1 and lengths[row] == lengths[row - 1]:
            found[-1].append(row)
        else:
            found.append([row])
    return found


def _bucket(group: list[int], lengths: Sequence[int], starts: Sequence[int], device: torch.device) -> Bucket:
    length = max(lengths[row] for row in group)
    nothing = torch.empty(0, dtype=torch.long, device=device)
    first, last = group[0], group[-1]
    if last - first + 1 == len(group) and all(lengths[row] == length for row in group):
        return Bucket(
            len(group), length, slice(starts[first], starts[last] + length), nothing, nothing, nothing
        )
    step = torch.arange(length)
    begin = torch.tensor([starts[row] for row in group])[:, None]
    size = torch.tensor([lengths[row] for row in group])[:, None]
    gather = (begin + torch.minimum(step, size - 1)).flatten().to(device)
    inside = (step < size).flatten().nonzero().flatten().to(device)
    return Bucket(len(group), length, None, gather, inside, gather[inside])


NOWHERE = Where((), (), torch.device("cpu"))
"""No rows."""
