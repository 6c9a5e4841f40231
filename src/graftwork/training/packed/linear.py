"""A frozen linear layer that serves every adapter of a pass."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.autograd import Function

from graftwork.training.nf4 import Nf4Linear
from graftwork.training.packed.cohort import Cohort
from graftwork.training.packed.lowrank import backward_, forward_
from graftwork.training.packed.matmul import times
from graftwork.training.packed.now import Now


class _Share(Function):
    """y + every adapter's share, for one group of modules."""

    @staticmethod
    def forward(
        ctx: Any, y: torch.Tensor, x: torch.Tensor, anchor: torch.Tensor, key: str, now: tuple[Cohort, ...]
    ) -> torch.Tensor:
        ctx.mark_dirty(y)
        ctx.where = (key, now)
        ctx.shares = forward_(key, now, x, y)
        ctx.save_for_backward(x)
        return y

    @staticmethod
    def backward(ctx: Any, *slopes: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        (dy,), (x,), (key, now) = slopes, ctx.saved_tensors, ctx.where
        dy = dy.contiguous()
        dx = torch.zeros_like(x) if ctx.needs_input_grad[1] else None
        backward_(key, now, ctx.shares, lambda: x, dy, dx)
        return (dy if ctx.needs_input_grad[0] else None), dx, None, None, None


class _Frozen(Function):
    """x Wᵀ with a gradient toward x alone. Each way looks at the weight once: it may have to be unpacked."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, base: nn.Linear) -> torch.Tensor:
        ctx.base = base
        return times(x, base.weight)

    @staticmethod
    def backward(ctx: Any, *slopes: torch.Tensor) -> tuple[torch.Tensor | None, None]:
        return times(slopes[0].contiguous(), ctx.base.weight.t()), None


class PackedLinear(nn.Module):
    """A linear layer's frozen product for all packed tokens, and each span's own low-rank product.

    Takes [..., T, in] with all leading sides 1, or any layout whose flattened tokens are those of ``now``.
    """

    def __init__(self, base: nn.Linear, key: str, now: Now) -> None:
        super().__init__()
        self.base, self.key, self.now = base, key, now

    @property
    def weight(self) -> torch.Tensor:
        """Of the frozen layer: some models look at it."""
        return self.base.weight

    @property
    def bias(self) -> torch.Tensor | None:
        """Of the frozen layer."""
        return self.base.bias

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[..., in] to [..., out]."""
        flat = x.reshape(-1, x.shape[-1])
        y = self._frozen(flat)
        active = tuple(cohort for cohort in self.now.cohorts if cohort.bank.adapts(self.key))
        if active and torch.is_grad_enabled():
            y = _Share.apply(y, flat, self.now.anchor, self.key, active)
        elif active:
            forward_(self.key, active, flat, y)
        return y.unflatten(0, x.shape[:-1])

    def _frozen(self, flat: torch.Tensor) -> torch.Tensor:
        if type(self.base) not in (nn.Linear, Nf4Linear):
            return self.base(flat)  # another kind of layer knows its own product
        y = _Frozen.apply(flat, self.base)
        return y if self.base.bias is None else y + self.base.bias
