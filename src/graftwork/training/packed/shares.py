"""Low-rank products of a cohort by ``lowrank.c``: no table but the one they need, and no copies.

A step of many short rows is many small products. PyTorch's batched ones, with a table in between for every
sum, take longer (``python -m bench.kernels``). An adapter's numbers depend on its own tokens alone, whatever
its neighbours and the threads.
"""

from __future__ import annotations

import torch

from graftwork.training.packed.bank import Matrices
from graftwork.training.packed.cohort import Cohort
from graftwork.training.packed.kernels import Kernels, kernels, spread

EVEN = 8
"""What ranks, inputs and outputs are multiples of: half of the widest vector."""


def kernel(cohort: Cohort, own: Matrices, *tensors: torch.Tensor) -> Kernels | None:
    """None where there is none for it: another precision or device, odd sizes."""
    run, rank = kernels(tensors[0]), cohort.bank.plan.rank
    if run is None or any(x.dtype is not torch.float32 or x.stride(-1) != 1 for x in tensors):
        return None
    sizes = (rank, own.pair.fan_in, *(out for _, out, _ in own.pair.members))
    return None if any(size % EVEN for size in sizes) else run


def share(run: Kernels, cohort: Cohort, own: Matrices, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """scale · x Aᵀ [tokens, rank × members]; adds its product with Bᵀ to ``y [tokens, out]``."""
    table = _Table(cohort, own)
    u = x.new_empty(len(x), table.wide)

    def part(first: int, last: int) -> None:
        scratch = x.new_empty(table.scratch)
        run("share", x, own.weights, u, y, scratch, *table.of(first, last), x.stride(0), y.stride(0))

    spread(table.pieces, len(x) * (table.into_a + table.into_b), part)
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
    table, du = _Table(cohort, own), torch.empty_like(u)

    def part(first: int, last: int) -> None:
        strides = (slope.stride(0), x.stride(0), 0 if dx is None else dx.stride(0))
        run("share_back", slope, x, u, own.weights, own.grads, du, dx, *table.of(first, last), *strides)

    def part_a(first: int, last: int) -> None:
        run("share_back_a", x, du, own.grads, *table.of(first, last), x.stride(0))

    spread(table.pieces, 2 * len(x) * (table.into_a + table.into_b), part)
    if table.cuts > 1:
        spread(table.pieces, len(x) * table.into_a, part_a)


class _Table:
    """``lowrank.c``'s arguments of that name, for all pieces of the work."""

    def __init__(self, cohort: Cohort, own: Matrices) -> None:
        pair, rank = own.pair, cohort.bank.plan.rank
        outs = [out for _, out, _ in pair.members]
        self.wide = rank * len(outs)
        self.into_a, self.into_b = self.wide * pair.fan_in, rank * sum(outs)
        """Multiplications of a token."""
        self.scratch = max(self.into_a, rank * max(outs))
        # One piece an adapter, unless threads are more. Asked here: another thread gets another answer.
        self.cuts = -(-torch.get_num_threads() // len(own.weights))
        self.pieces = len(own.weights) * self.cuts
        self._where = (cohort.scales, cohort.edges, pair.table)
        self._sizes = (self.cuts, own.weights.stride(0), pair.a.start, pair.fan_in, rank, len(outs))

    def of(self, first: int, last: int) -> tuple[torch.Tensor | int, ...]:
        """For pieces from the first to the last."""
        return *self._where, first, last, *self._sizes
