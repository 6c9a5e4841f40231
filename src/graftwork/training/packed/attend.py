"""Attention of packed rows by ``attend.c``: no gathering, no padding, half the work of a square of scores.

PyTorch's own kernel for the CPU is made for long rows; this one is faster up to 2048 tokens at least
(``python -m bench.kernels``). A row's numbers depend on that row alone, whatever the threads.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from graftwork.training.packed.kernels import Kernels, kernels, spread
from graftwork.training.packed.where import Where

VECTOR, BLOCK = 16, 32
"""Floats of the widest vector, and queries at a time, in ``attend.c``."""


@dataclass(frozen=True, slots=True)
class Attend:
    """One layer's attention; arguments as ``attention.core``'s."""

    run: Kernels
    query: torch.Tensor
    key: torch.Tensor
    value: torch.Tensor
    where: Where
    scale: float
    window: int

    @classmethod
    def of(
        cls,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        where: Where,
        scale: float | None,
        window: int | None,
    ) -> Attend | None:
        """None where there is no kernel for it: another precision or device, an odd size of heads."""
        run, size = kernels(query), query.shape[-1]
        if run is None or size % VECTOR or value.shape[-1] != size:
            return None
        if any(tensor.stride(-1) != 1 for tensor in (query, key, value)):
            return None
        return cls(run, query, key, value, where, scale or size**-0.5, window or 0)

    def forward(self) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """Output [T, heads, d], and the logarithms of the sums of its weights [T, heads]."""
        out = self.query.new_empty(self.query.shape)
        logs = self.query.new_empty(self.query.shape[:2])
        self._each("attend", 1, self.query, self.key, self.value, out, logs)
        return out, [logs]

    def backward(
        self, slope: torch.Tensor, out: torch.Tensor, logs: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Gradients toward query, key and value; ``slope`` [T, heads, d] toward the output."""
        query, key, value = (x.new_empty(x.shape) for x in (self.query, self.key, self.value))
        made = (out, logs, query, key, value)
        self._each("attend_back", 2, slope.contiguous(), self.query, self.key, self.value, *made)
        return query, key, value

    def _each(self, name: str, copies: int, *tensors: torch.Tensor) -> None:
        """All rows and heads, shared among as many threads as torch has."""
        (_, heads, size), kv_heads = self.query.shape, self.key.shape[1]
        strides = [side for x in (self.query, self.key, self.value) for side in x.stride()[:2]]
        floats = copies * (size + BLOCK) * (self.where.longest + VECTOR)

        def part(first: int, last: int) -> None:
            rows = (self.where.starts, self.where.lengths, self.query.new_empty(floats))
            sizes = (first, last, heads, kv_heads, size, *strides, self.window)
            self.run(name, *tensors, *rows, *sizes, self.scale)

        work = len(self.query) * heads * size * self.where.longest
        spread(len(self.where.lengths) * kv_heads, work, part)
