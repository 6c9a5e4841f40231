"""How the rows of a pass lie: end to end, sorted by adapter, without padding.

A row enters the model only up to the token before its last label: what comes after it predicts nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch

from graftwork.data.rendering import Encoded
from graftwork.training.packed.bank import Tenant

Rows = Sequence[Encoded]


@dataclass(frozen=True, slots=True)
class Span:
    """Neighbouring rows of one adapter; None is the base model alone."""

    tenant: Tenant | None
    rows: slice
    tokens: slice
    lengths: tuple[int, ...]
    seeds: tuple[int, ...] = ()
    """Of each row's dropout; empty: no dropout."""


@dataclass(frozen=True, slots=True)
class Layout:
    """Rows of a pass on the token axis; T tokens, n labelled ones."""

    ids: torch.Tensor
    """int64 [T]."""
    positions: torch.Tensor
    """int64 [T], from 0 in each row."""
    lengths: tuple[int, ...]
    starts: tuple[int, ...]
    spans: tuple[Span, ...]
    where: torch.Tensor
    """int64 [n]: the tokens whose prediction counts."""
    targets: torch.Tensor
    """int64 [n]: what they are to predict."""
    row_of: torch.Tensor
    """int64 [n]: the row of each labelled token."""

    @property
    def tokens(self) -> int:
        """T."""
        return sum(self.lengths)


@dataclass(frozen=True, slots=True)
class Stretch:
    """What one span is made of."""

    tenant: Tenant | None
    rows: Rows
    seeds: tuple[int, ...] = ()


def used(row: Encoded) -> int:
    """Tokens of a row that must be read to predict all its labels."""
    labels = row.labels
    last = len(labels) - 1
    while last > 0 and not labels[last]:
        last -= 1
    return last


def pack(stretches: Sequence[Stretch], device: torch.device) -> Layout:
    """Lay rows out; each must have a label. Neighbouring stretches of one bank should be in slot order."""
    rows = [row for stretch in stretches for row in stretch.rows]
    lengths = tuple(used(row) for row in rows)
    starts = tuple(accumulate(lengths, initial=0))
    ids: list[int] = []
    where: list[int] = []
    targets: list[int] = []
    row_of: list[int] = []
    for number, (row, length, start) in enumerate(zip(rows, lengths, starts, strict=False)):
        ids += row.tokens[:length]
        marks = [index for index in range(1, length + 1) if row.labels[index]]
        where += [start + index - 1 for index in marks]
        targets += [row.tokens[index] for index in marks]
        row_of += [number] * len(marks)
    axis = torch.cat([torch.arange(length) for length in lengths])
    packed = torch.tensor([where, targets, row_of], dtype=torch.long).to(device, non_blocking=True)
    return Layout(
        ids=torch.tensor(ids, dtype=torch.long).to(device, non_blocking=True),
        positions=axis.to(device, non_blocking=True),
        lengths=lengths,
        starts=starts[:-1],
        spans=_spans(stretches, lengths, starts),
        where=packed[0],
        targets=packed[1],
        row_of=packed[2],
    )


def _spans(stretches: Sequence[Stretch], lengths: tuple[int, ...], starts: Sequence[int]) -> tuple[Span, ...]:
    edges = tuple(accumulate((len(stretch.rows) for stretch in stretches), initial=0))
    return tuple(
        Span(
            stretch.tenant,
            slice(first, last),
            slice(starts[first], starts[last]),
            lengths[first:last],
            stretch.seeds if stretch.tenant and stretch.tenant.dropout else (),
        )
        for stretch, first, last in zip(stretches, edges, edges[1:], strict=False)
    )


def labelled_spans(layout: Layout) -> tuple[Span, ...]:
    """The spans on the axis of labelled tokens."""
    counts = torch.bincount(layout.row_of, minlength=len(layout.lengths)).tolist()
    edges = list(accumulate(counts, initial=0))
    return tuple(
        Span(
            span.tenant,
            span.rows,
            slice(edges[span.rows.start], edges[span.rows.stop]),
            tuple(counts[span.rows]),
            span.seeds,
        )
        for span in layout.spans
    )
