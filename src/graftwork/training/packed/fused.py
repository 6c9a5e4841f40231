"""Llama-shaped layers as two functions with hand-written gradients: the attention half and the MLP half.

Each reads and writes the residual stream, packed [T, width]. Frozen weights get no gradient at all, and the
first layer computes none toward its input. What a half keeps for its backward pass is the least from which
the rest is cheap to compute again, its input and the products with frozen weights; of small passes also the
rest (``SMALL``).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch.autograd import Function

from graftwork.training.nf4 import Nf4, read
from graftwork.training.packed.attention import core, core_back
from graftwork.training.packed.cohort import Cohort
from graftwork.training.packed.elementwise import (
    gate,
    gate_back_,
    norm,
    norm_again,
    norm_back,
    turn,
    turn_back_,
)
from graftwork.training.packed.lowrank import backward_, forward_
from graftwork.training.packed.matmul import times
from graftwork.training.packed.now import Pass

SMALL = 1 << 20
"""Numbers, 4 MB in fp32, that are rather kept for the backward pass than computed again."""


def _kept(x: torch.Tensor) -> torch.Tensor | None:
    return x if x.numel() <= SMALL else None


def _again(kept: torch.Tensor | None, make: Callable[[], torch.Tensor]) -> Callable[[], torch.Tensor]:
    return make if kept is None else lambda: kept


@dataclass(slots=True)
class Frozen:
    """Frozen linear modules with one input, their weights in one buffer, or in 4 bits."""

    key: str
    held: torch.Tensor | tuple[Nf4, ...]
    """[sum of outputs, in], the modules' own parameters being views of it; or each module's, packed."""
    bias: torch.Tensor | None

    @property
    def weight(self) -> torch.Tensor:
        """[sum of outputs, in]; what is packed is read anew, once for each product with all tokens."""
        return self.held if isinstance(self.held, torch.Tensor) else read(self.held)


@dataclass(slots=True)
class AttentionPart:
    """What the attention half of a layer needs."""

    entry: Frozen
    """Query, key and value."""
    exit: Frozen
    norm: torch.Tensor
    eps: float
    query_norm: torch.Tensor | None
    key_norm: torch.Tensor | None
    heads: int
    kv_heads: int
    size: int
    """Of a head."""
    scale: float
    window: int | None
    last: bool
    """Of the last layer only labelled tokens leave the half: no other token is looked at later."""


@dataclass(slots=True)
class MlpPart:
    """What the MLP half of a layer needs."""

    entry: Frozen
    """Gate and up."""
    exit: Frozen
    norm: torch.Tensor
    eps: float
    last: bool


def _linear(
    frozen: Frozen, x: torch.Tensor, cohorts: tuple[Cohort, ...]
) -> tuple[torch.Tensor, list[torch.Tensor | None]]:
    y = times(x, frozen.weight, frozen.bias)
    return y, forward_(frozen.key, cohorts, x, y)


class AttentionHalf(Function):
    """h + o(attention(norm(h))) for all tokens, or for the labelled ones in the last layer."""

    @staticmethod
    def forward(
        ctx: Any, h: torch.Tensor, anchor: torch.Tensor, part: AttentionPart, now: Pass
    ) -> torch.Tensor:
        """[T, width] to the same, or to [n, width] in the last layer."""
        entering, scale = norm(h, part.norm, part.eps)
        entered, shares = _linear(part.entry, entering, now.cohorts)
        raw, value = _heads(part, entered)
        (query, *query_size), (key, *key_size) = (
            turn(x, now.cos, now.sin, weight, part.eps)
            for x, weight in zip(raw, (part.query_norm, part.key_norm), strict=True)
        )
        mixed, kept = core(query, key, value, now.rows, part.scale, part.window)
        flat = mixed.flatten(1)
        chosen = flat.index_select(0, now.where) if part.last else flat
        out, exit_shares = _linear(part.exit, chosen, now.labelled if part.last else now.cohorts)
        out += h.index_select(0, now.where) if part.last else h
        ctx.part, ctx.now, ctx.shares, ctx.kept = part, now, (shares, exit_shares), kept
        ctx.raw = raw, (*query_size, *key_size)
        ctx.entering = _kept(entering)
        ctx.save_for_backward(h, scale, query, key, value, mixed)
        return out

    @staticmethod
    def backward(ctx: Any, *slopes: torch.Tensor) -> tuple[torch.Tensor | None, None, None, None]:
        """Toward h, if it wants a gradient."""
        (slope,), (h, scale, *made) = slopes, ctx.saved_tensors
        part, now, (shares, exit_shares) = ctx.part, ctx.now, ctx.shares
        slope, flat = slope.contiguous(), made[-1].flatten(1)
        back = times(slope, part.exit.weight.t())
        cohorts = now.labelled if part.last else now.cohorts
        chosen = flat.index_select(0, now.where) if part.last else flat
        backward_(part.exit.key, cohorts, exit_shares, lambda: chosen, slope, back)
        if part.last:
            back = torch.zeros_like(flat).index_copy_(0, now.where, back)
        toward = _attention_back(part, now, tuple(made), ctx.kept, ctx.raw, back)
        dx = times(toward, part.entry.weight.t()) if ctx.needs_input_grad[0] else None
        normed = _again(ctx.entering, lambda: norm_again(h, part.norm, scale))
        backward_(part.entry.key, now.cohorts, shares, normed, toward, dx)
        if dx is None:
            return None, None, None, None
        dh = norm_back(dx, h, part.norm, scale)
        if part.last:
            dh.index_add_(0, now.where, slope)
        else:
            dh += slope
        return dh, None, None, None


Raw = tuple[torch.Tensor, torch.Tensor]
"""Query and key as the product made them, [T, heads, d]."""


def _heads(part: AttentionPart, entered: torch.Tensor) -> tuple[Raw, torch.Tensor]:
    """Query and key, and value, of the product [T, …]."""
    made = entered.unflatten(1, (-1, part.size))
    last = part.heads + part.kv_heads
    return (made[:, : part.heads], made[:, part.heads : last]), made[:, last:]


def _attention_back(
    part: AttentionPart,
    now: Pass,
    made: tuple[torch.Tensor, ...],
    kept: list[torch.Tensor],
    raw: tuple[Raw, tuple[torch.Tensor | None, ...]],
    slope: torch.Tensor,
) -> torch.Tensor:
    """Gradient toward the product of query, key and value [T, …]; ``made``: these and the output."""
    query, key, value, out = made
    slopes = core_back(
        slope.unflatten(1, (-1, part.size)),
        (query, key, value, out),
        kept,
        now.rows,
        part.scale,
        part.window,
    )
    toward = slope.new_empty(slope.shape[0], (part.heads + 2 * part.kv_heads) * part.size)
    (into_query, into_key), into_value = _heads(part, toward)
    for into, x, scale, weight, gradient in zip(
        (into_query, into_key), *raw, (part.query_norm, part.key_norm), slopes[:2], strict=True
    ):
        turn_back_(into, gradient, x, now.cos, now.sin, weight, scale)
    into_value.copy_(slopes[2])
    return toward


class MlpHalf(Function):
    """h + down(silu(gate(norm(h))) · up(norm(h)))."""

    @staticmethod
    def forward(ctx: Any, h: torch.Tensor, anchor: torch.Tensor, part: MlpPart, now: Pass) -> torch.Tensor:
        """[T, width] to the same."""
        cohorts = now.labelled if part.last else now.cohorts
        entering, scale = norm(h, part.norm, part.eps)
        both, shares = _linear(part.entry, entering, cohorts)
        leaving = gate(both)
        out, exit_shares = _linear(part.exit, leaving, cohorts)
        out += h
        ctx.part, ctx.cohorts, ctx.shares = part, cohorts, (shares, exit_shares)
        ctx.entering, ctx.leaving = _kept(entering), _kept(leaving)
        ctx.save_for_backward(h, scale, both)
        return out

    @staticmethod
    def backward(ctx: Any, *slopes: torch.Tensor) -> tuple[torch.Tensor | None, None, None, None]:
        """Toward h, if it wants a gradient. What was kept is used up."""
        (slope,), (h, scale, both) = slopes, ctx.saved_tensors
        part, cohorts, (shares, exit_shares) = ctx.part, ctx.cohorts, ctx.shares
        slope = slope.contiguous()
        back = times(slope, part.exit.weight.t())
        backward_(part.exit.key, cohorts, exit_shares, _again(ctx.leaving, lambda: gate(both)), slope, back)
        toward = gate_back_(back, both)
        dx = times(toward, part.entry.weight.t()) if ctx.needs_input_grad[0] else None
        normed = _again(ctx.entering, lambda: norm_again(h, part.norm, scale))
        backward_(part.entry.key, cohorts, shares, normed, toward, dx)
        if dx is None:
            return None, None, None, None
        return norm_back(dx, h, part.norm, scale).add_(slope), None, None, None
