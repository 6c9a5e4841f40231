"""Llama-shaped layers as two functions with hand-written gradients: the attention half and the MLP half.

Each reads and writes the residual stream, packed [T, width]. Frozen weights get no gradient at all, and the
first layer computes none toward its input. What a half keeps for its backward pass is the least from which
the rest is cheap to compute again: its input and the products with frozen weights.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch.autograd import Function

from graftwork.training.packed.attention import core, core_back
from graftwork.training.packed.elementwise import (
    Turn,
    gate,
    gate_back_,
    inverse_norm,
    norm,
    norm_back,
    turn,
    turn_back_,
)
from graftwork.training.packed.lowrank import Cohort, backward_, forward_
from graftwork.training.packed.matmul import times
from graftwork.training.packed.now import Pass


@dataclass(slots=True)
class Frozen:
    """Frozen linear modules with one input, their weights in one buffer."""

    key: str
    weight: torch.Tensor
    """[sum of outputs, in]; the modules' own parameters are views of it."""
    bias: torch.Tensor | None


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
        entered, shares = _linear(part.entry, norm(h, part.norm, part.eps), now.cohorts)
        query, key, value, _ = _heads(part, now, entered)
        mixed, kept = core(query, key, value, now.buckets, part.scale, part.window)
        flat = mixed.flatten(1)
        chosen = flat.index_select(0, now.where) if part.last else flat
        out, exit_shares = _linear(part.exit, chosen, now.labelled if part.last else now.cohorts)
        out += h.index_select(0, now.where) if part.last else h
        ctx.part, ctx.now, ctx.shares, ctx.kept = part, now, (shares, exit_shares), kept
        ctx.save_for_backward(h, entered, flat)
        return out

    @staticmethod
    def backward(ctx: Any, *slopes: torch.Tensor) -> tuple[torch.Tensor | None, None, None, None]:
        """Toward h, if it wants a gradient."""
        (slope,), (h, entered, flat) = slopes, ctx.saved_tensors
        part, now, (shares, exit_shares) = ctx.part, ctx.now, ctx.shares
        slope = slope.contiguous()
        wanted = ctx.needs_input_grad[0]
        chosen = flat.index_select(0, now.where) if part.last else flat
        back = times(slope, part.exit.weight.t())
        backward_(
            part.exit.key,
            now.labelled if part.last else now.cohorts,
            exit_shares,
            lambda: chosen,
            slope,
            back,
        )
        if part.last:
            back = torch.zeros_like(flat).index_copy_(0, now.where, back)
        toward = _attention_back(part, now, entered, flat, ctx.kept, back)
        dx = times(toward, part.entry.weight.t()) if wanted else None
        backward_(part.entry.key, now.cohorts, shares, lambda: norm(h, part.norm, part.eps), toward, dx)
        if dx is None:
            return None, None, None, None
        dh = norm_back(dx, h, part.norm, part.eps)
        if part.last:
            dh.index_add_(0, now.where, slope)
        else:
            dh += slope
        return dh, None, None, None


def _heads(
    part: AttentionPart, now: Pass, entered: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, list[tuple[torch.Tensor, Turn, torch.Tensor | None]]]:
    """Query and key, normalised and turned, and value, all [T, heads, d]; and how the first two were made."""
    made = entered.unflatten(1, (-1, part.size))
    edges = (part.heads, part.heads + part.kv_heads)
    turned: list[tuple[torch.Tensor, Turn, torch.Tensor | None]] = []
    for raw, weight in (
        (made[:, : edges[0]], part.query_norm),
        (made[:, edges[0] : edges[1]], part.key_norm),
    ):
        scale = None if weight is None else inverse_norm(raw, part.eps).to(raw.dtype)
        turned.append((raw, Turn(now.cos, now.sin, weight), scale))
    return turn(*turned[0]), turn(*turned[1]), made[:, edges[1] :], turned


def _attention_back(
    part: AttentionPart,
    now: Pass,
    entered: torch.Tensor,
    flat: torch.Tensor,
    kept: list[torch.Tensor],
    slope: torch.Tensor,
) -> torch.Tensor:
    """Gradient toward the product of query, key and value [T, …]."""
    query, key, value, turned = _heads(part, now, entered)
    heads = (-1, part.size)
    made = (query, key, value, flat.unflatten(1, heads))
    dq, dk, dv = core_back(slope.unflatten(1, heads), made, kept, now.buckets, part.scale, part.window)
    toward = torch.empty_like(entered)
    parts = toward.unflatten(1, (-1, part.size))
    edges = (part.heads, part.heads + part.kv_heads)
    for into, gradient, (raw, table, scale) in (
        (parts[:, : edges[0]], dq, turned[0]),
        (parts[:, edges[0] : edges[1]], dk, turned[1]),
    ):
        turn_back_(into, gradient, raw, table, scale)
    parts[:, edges[1] :].copy_(dv)
    return toward


class MlpHalf(Function):
    """h + down(silu(gate(norm(h))) · up(norm(h)))."""

    @staticmethod
    def forward(ctx: Any, h: torch.Tensor, anchor: torch.Tensor, part: MlpPart, now: Pass) -> torch.Tensor:
        """[T, width] to the same."""
        cohorts = now.labelled if part.last else now.cohorts
        both, shares = _linear(part.entry, norm(h, part.norm, part.eps), cohorts)
        out, exit_shares = _linear(part.exit, gate(both), cohorts)
        out += h
        ctx.part, ctx.cohorts, ctx.shares = part, cohorts, (shares, exit_shares)
        ctx.save_for_backward(h, both)
        return out

    @staticmethod
    def backward(ctx: Any, *slopes: torch.Tensor) -> tuple[torch.Tensor | None, None, None, None]:
        """Toward h, if it wants a gradient."""
        (slope,), (h, both) = slopes, ctx.saved_tensors
        part, cohorts, (shares, exit_shares) = ctx.part, ctx.cohorts, ctx.shares
        slope = slope.contiguous()
        back = times(slope, part.exit.weight.t())
        backward_(part.exit.key, cohorts, exit_shares, lambda: gate(both), slope, back)
        toward = gate_back_(back, both)
        dx = times(toward, part.entry.weight.t()) if ctx.needs_input_grad[0] else None
        backward_(part.entry.key, cohorts, shares, lambda: norm(h, part.norm, part.eps), toward, dx)
        if dx is None:
            return None, None, None, None
        return norm_back(dx, h, part.norm, part.eps).add_(slope), None, None, None
