"""The adapters' own products: for each span of tokens, A and B of its adapter, forward and backward.

Spans whose adapters share a bank are one cohort and are multiplied together; cohorts take turns. Gradients of
A and B go straight into the bank's table of gradients; autograd never sees them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby

import torch

from graftwork.training.packed.bank import Bank
from graftwork.training.packed.layout import Span
from graftwork.training.packed.matmul import grouped, grouped_into_, grouped_outer_
from graftwork.training.seeds import mixed


@dataclass(frozen=True, slots=True)
class Cohort:
    """Neighbouring spans of one bank, in slot order."""

    bank: Bank
    tokens: slice
    slots: slice
    """Rows of the bank from the first to the last in the cohort; those between may have no tokens."""
    ends: torch.Tensor | None
    """int32: where each slot's tokens end, from the cohort's first; None: all have equally many."""
    scale: float | torch.Tensor
    """alpha / r: of all, or fp32 [tokens, 1]."""
    spans: tuple[Span, ...]

    def keep(self, key: str, width: int, device: torch.device) -> torch.Tensor | None:
        """Dropout's factors fp32 [tokens, width] for the input of group ``key``; None: no dropout.

        They follow from a row's seed and the group alone, so they are drawn again in the backward pass.
        """
        if not any(span.seeds for span in self.spans):
            return None
        generator = torch.Generator(device)
        tokens = self.tokens.stop - self.tokens.start
        factors = torch.ones(tokens, width, device=device)
        for span in self.spans:
            rate = span.tenant.dropout if span.tenant and span.seeds else 0.0
            at = span.tokens.start - self.tokens.start
            for seed, length in zip(span.seeds, span.lengths, strict=True):
                generator.manual_seed(mixed(seed, key))
                part = factors[at : at + length]
                part.bernoulli_(1 - rate, generator=generator).div_(1 - rate)
                at += length
        return factors


def cohorts(spans: Sequence[Span], device: torch.device) -> tuple[Cohort, ...]:
    """The adapted spans, by bank."""
    found: list[Cohort] = []
    for bank, members in groupby(spans, key=lambda span: span.tenant and span.tenant.bank):
        if bank is not None:
            found.append(_cohort(bank, tuple(members), device))
    return tuple(found)


def _cohort(bank: Bank, spans: tuple[Span, ...], device: torch.device) -> Cohort:
    tenants = [span.tenant for span in spans if span.tenant]
    first, last = tenants[0].slot, tenants[-1].slot
    begin = spans[0].tokens.start
    sizes = [0] * (last - first + 1)
    for tenant, span in zip(tenants, spans, strict=True):
        sizes[tenant.slot - first] += span.tokens.stop - span.tokens.start
    ends = None
    if len(set(sizes)) > 1:
        ends = torch.tensor(sizes).cumsum(0).to(device, torch.int32, non_blocking=True)
    scale: float | torch.Tensor = tenants[0].scale
    if len({tenant.scale for tenant in tenants}) > 1:
        each = [(tenant.scale, span.tokens) for tenant, span in zip(tenants, spans, strict=True)]
        column = [value for value, tokens in each for _ in range(tokens.stop - tokens.start)]
        scale = torch.tensor(column, device=device)[:, None]  # in-place products take it as it is
    return Cohort(bank, slice(begin, spans[-1].tokens.stop), slice(first, last + 1), ends, scale, spans)


def forward_(
    key: str, cohorts: Sequence[Cohort], x: torch.Tensor, y: torch.Tensor
) -> list[torch.Tensor | None]:
    """Add every adapter's share of group ``key`` to ``y [T, out]``, in place; ``x`` is [T, in].

    Returns, for each cohort, scale · x Aᵀ [tokens, rank × members], which the backward pass wants.
    """
    kept: list[torch.Tensor | None] = []
    for cohort in cohorts:
        own = cohort.bank.matrices(key, cohort.slots)
        if own is None:
            kept.append(None)
            continue
        mine, into, rank = x[cohort.tokens], y[cohort.tokens], cohort.bank.plan.rank
        keep = cohort.keep(key, x.shape[-1], x.device)
        if keep is not None:
            mine = mine * keep.to(mine.dtype)
        u = grouped(mine, own.a.to(x.dtype).transpose(1, 2), cohort.ends)
        u *= cohort.scale
        for at, b, columns in zip(range(0, u.shape[1], rank), own.b, own.columns, strict=True):
            grouped_into_(into[:, columns], u[:, at : at + rank], b.to(x.dtype).transpose(1, 2), cohort.ends)
        kept.append(u)
    return kept


def backward_(
    key: str,
    cohorts: Sequence[Cohort],
    kept: Sequence[torch.Tensor | None],
    read: Callable[[], torch.Tensor],
    dy: torch.Tensor,
    dx: torch.Tensor | None,
) -> None:
    """Add the gradients of A and B to the banks', and those of the input to ``dx`` [T, in], if wanted.

    Args:
        read: gives the input x [T, in] (again); called if any adapter is here.
    """
    x = read() if any(u is not None for u in kept) else dy
    for cohort, u in zip(cohorts, kept, strict=True):
        own = cohort.bank.matrices(key, cohort.slots)
        if u is None or own is None:
            continue
        du, slope, rank = torch.empty_like(u), dy[cohort.tokens], cohort.bank.plan.rank
        starts = range(0, u.shape[1], rank)
        for at, b, db, columns in zip(starts, own.b, own.db, own.columns, strict=True):
            part = slope[:, columns]
            grouped_outer_(db, part, u[:, at : at + rank], cohort.ends)
            du[:, at : at + rank] = grouped(part, b.to(dy.dtype), cohort.ends)
        du *= cohort.scale
        keep = cohort.keep(key, x.shape[-1], x.device)
        mine = x[cohort.tokens] if keep is None else x[cohort.tokens] * keep.to(x.dtype)
        grouped_outer_(own.da, du, mine, cohort.ends)
        if dx is not None and keep is None:
            grouped_into_(dx[cohort.tokens], du, own.a.to(dy.dtype), cohort.ends)
        elif dx is not None and keep is not None:
            dx[cohort.tokens] += grouped(du, own.a.to(dy.dtype), cohort.ends) * keep.to(dy.dtype)
