"""The adapters' own products: for each span of tokens, A and B of its adapter, forward and backward.

Spans whose adapters share a bank are one cohort and are multiplied together; cohorts take turns. Gradients of
A and B go straight into the bank's table of gradients; autograd never sees them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from graftwork.training.packed.bank import Matrices
from graftwork.training.packed.cohort import Cohort
from graftwork.training.packed.matmul import grouped, grouped_into_, grouped_outer_
from graftwork.training.packed.shares import kernel, share, share_back


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
        mine, into = x[cohort.tokens], y[cohort.tokens]
        keep = cohort.keep(key, x.shape[-1], x.device)
        if keep is not None:
            mine = mine * keep.to(mine.dtype)
        run = kernel(cohort, own, mine, into)
        kept.append(share(run, cohort, own, mine, into) if run else multiply(cohort, own, mine, into))
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
        slope, mine, into = dy[cohort.tokens], x[cohort.tokens], None if dx is None else dx[cohort.tokens]
        keep = cohort.keep(key, x.shape[-1], x.device)
        if keep is not None:
            keep = keep.to(x.dtype)
            mine, into = mine * keep, None if into is None else torch.zeros_like(into)
        run = kernel(cohort, own, slope, mine, u)
        if run:
            share_back(run, cohort, own, slope, mine, u, into)
        else:
            multiply_back(cohort, own, slope, mine, u, into)
        if keep is not None and dx is not None and into is not None:
            dx[cohort.tokens] += into * keep


def multiply(cohort: Cohort, own: Matrices, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """``shares.share`` with PyTorch: of any size, precision and device."""
    rank = cohort.bank.plan.rank
    u = grouped(x, own.a.to(x.dtype).transpose(1, 2), cohort.ends)
    u *= cohort.scale
    for at, b, columns in zip(range(0, u.shape[1], rank), own.b, own.columns, strict=True):
        grouped_into_(y[:, columns], u[:, at : at + rank], b.to(x.dtype).transpose(1, 2), cohort.ends)
    return u


def multiply_back(
    cohort: Cohort,
    own: Matrices,
    slope: torch.Tensor,
    x: torch.Tensor,
    u: torch.Tensor,
    dx: torch.Tensor | None,
) -> None:
    """``shares.share_back`` with PyTorch."""
    du, rank = torch.empty_like(u), cohort.bank.plan.rank
    starts = range(0, u.shape[1], rank)
    for at, b, db, columns in zip(starts, own.b, own.db, own.columns, strict=True):
        part = slope[:, columns]
        grouped_outer_(db, part, u[:, at : at + rank], cohort.ends)
        du[:, at : at + rank] = grouped(part, b.to(slope.dtype), cohort.ends)
    du *= cohort.scale
    grouped_outer_(own.da, du, x, cohort.ends)
    if dx is not None:
        grouped_into_(dx, du, own.a.to(slope.dtype), cohort.ends)
