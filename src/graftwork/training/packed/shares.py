"""Low-rank products of a cohort by ``lowrank.c``: no table but the one they need, and no copies.

A step of many short rows is many small products. PyTorch's batched ones, with a table in between for every
sum, took two to three times as long on a processor with AVX-512. An adapter's numbers depend on its own
tokens alone, whatever its neighbours and the threads.
"""

from __future__ import annotations

import torch

from graftwork.training.packed.bank import Matrices
from graftwork.training.packed.cohort import Cohort
from graftwork.training.packed.kernels import Kernels, kernels, spread

EVEN = 8
"""What ranks, inputs and outputs are multiples of: half of the widest vector."""


def kernel(cohort: Cohort, own: Matrices, *tensors: torch.Tensor) -> Kernels | None:
    """None where there is none: another precision or device, odd sizes, one adapter for many threads."""
    run, rank = kernels(tensors[0]), cohort.bank.plan.rank
    if run is None or any(x.dtype is not torch.float32 or x.stride(-1) != 1 for x in tensors):
        return None
    if len(own.weights) == 1 and torch.get_num_threads() > 1:
        return None
    sizes = (rank, own.pair.fan_in, *(out for _, out, _ in own.pair.members))
    return None if any(size % EVEN for size in sizes) else run


def share(run: Kernels, cohort: Cohort, own: Matrices, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """scale · x Aᵀ [tokens, rank × members]; adds its product with Bᵀ to ``y [tokens, out]``."""
    wide, fan_in, outs = _sizes(cohort, own)
    u = x.new_empty(len(x), wide)

    def part(first: int, last: int) -> None:
        scratch = x.new_empty(max(wide * fan_in, cohort.bank.plan.rank * max(outs)))
        table = _table(cohort, own, first, last)
        run("share", x, own.weights, u, y, scratch, *table, x.stride(0), y.stride(0))

    spread(len(own.weights), len(x) * (wide * fan_in + cohort.bank.plan.rank * sum(outs)), part)
    return u


def share_back(
    run: Kernels,
    cohort: Cohort,
    own: Matrices,
    slope: torch.Tensor,
    x: torch.Tensor,
    u: torch.Tensor,
    dx: torch.Tensor | None,
) -> None:
    """Add the gradients of A and B to theirs, and that of x to ``dx`` [tokens, in], if wanted."""
    wide, fan_in, outs = _sizes(cohort, own)
    du = torch.empty_like(u)

    def part(first: int, last: int) -> None:
        table = _table(cohort, own, first, last)
        strides = (slope.stride(0), x.stride(0), 0 if dx is None else dx.stride(0))
        run("share_back", slope, x, u, own.weights, own.grads, du, dx, *table, *strides)

    spread(len(own.weights), 2 * len(x) * (wide * fan_in + cohort.bank.plan.rank * sum(outs)), part)


def _sizes(cohort: Cohort, own: Matrices) -> tuple[int, int, list[int]]:
    outs = [out for _, out, _ in own.pair.members]
    return cohort.bank.plan.rank * len(outs), own.pair.fan_in, outs


def _table(cohort: Cohort, own: Matrices, first: int, last: int) -> tuple[torch.Tensor | int, ...]:
    pair, rank = own.pair, cohort.bank.plan.rank
    ends = (first, last, own.weights.stride(0), pair.a.start, pair.fan_in, rank, len(pair.members))
    return cohort.scales, cohort.edges, pair.table, *ends
