"""Causal attention of each row to itself, over rows that lie end to end.

On the CPU by ``attend.py`` and in half precision on CUDA by ``flash.py``, which go along rows as they lie.
Elsewhere those of like length are laid side by side, the shorter ones padded on the right with copies of
their own last token: nothing that a row reads is another row's, so a NaN stays where it is. Attention is
causal, so what stands on the right is never seen by a token that counts. Sliding windows and grouped queries
are honoured.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import cache, lru_cache, partial
from typing import Any

import torch
from torch.autograd import Function
from torch.nn import functional

from graftwork.training.packed import flash
from graftwork.training.packed.attend import Attend
from graftwork.training.packed.where import Bucket, Where

log = logging.getLogger("graftwork.training")

AGREE = 0.02
"""Of two kernels in half precision, relative to the greatest number."""


def core(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    where: Where,
    scale: float | None,
    window: int | None,
) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """Attention of packed rows: ``query [T, heads, d]``, ``key``/``value [T, kv heads, d]`` to [T, heads, d].

    Without autograd; also returns what ``core_back`` wants. ``window``: a token sees so many tokens, itself
    included; None: all before it.
    """
    own = Attend.of(query, key, value, where, scale, window)
    if own is not None:
        return own.forward()
    if flash.takes(query, value) and _flash_works(query.device, query.dtype):
        return flash.forward(query, key, value, where, scale, window)
    return lay(query, key, value, where, scale, window)


def lay(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    where: Where,
    scale: float | None,
    window: int | None,
) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """``core`` over rows side by side."""
    out = query.new_empty(*query.shape[:-1], value.shape[-1])
    kept: list[torch.Tensor] = []
    for bucket in where.buckets:
        q, k, v = (bucket.lay(tensor).transpose(1, 2) for tensor in (query, key, value))
        found, *more = _forward(q, k, v, _mask(bucket, window, q), scale)
        kept += more
        flat = found.transpose(1, 2).flatten(0, 1)
        if bucket.run is not None:
            out[bucket.run] = flat
        else:
            out.index_copy_(0, bucket.tokens, flat.index_select(0, bucket.inside))
    return out, kept


def core_back(
    slope: torch.Tensor,
    made: tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor],
    kept: Sequence[torch.Tensor],
    where: Where,
    scale: float | None,
    window: int | None,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Gradients toward query, key and value, all like these.

    Args:
        slope: [T, heads, d], toward the output.
        made: query, key, value and output.
    """
    query, key, value, out = made
    own = Attend.of(query, key, value, where, scale, window)
    if own is not None:
        return own.backward(slope, out, kept[0])
    if flash.takes(query, value) and _flash_works(query.device, query.dtype):
        return flash.backward(slope, kept)
    return lay_back(slope, made, kept, where, scale, window)


def lay_back(
    slope: torch.Tensor,
    made: tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor],
    kept: Sequence[torch.Tensor],
    where: Where,
    scale: float | None,
    window: int | None,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """``core_back`` over rows side by side."""
    query, key, value, out = made
    gradients = (torch.empty_like(query), torch.empty_like(key), value.new_empty(value.shape))
    count = len(kept) // max(1, len(where.buckets))
    for number, bucket in enumerate(where.buckets):
        q, k, v, out = (bucket.lay(tensor).transpose(1, 2) for tensor in made)
        toward = bucket.lay(slope).transpose(1, 2)
        if bucket.run is None:
            toward = toward.transpose(1, 2).flatten(0, 1)
            padding = torch.ones(len(toward), dtype=torch.bool, device=slope.device)
            padding[bucket.inside] = False
            toward = toward.masked_fill(padding[:, None, None], 0.0)
            toward = toward.unflatten(0, (bucket.rows, bucket.length)).transpose(1, 2)
        mine = kept[number * count : (number + 1) * count]
        for into, found in zip(
            gradients, _backward(toward, (q, k, v, out), mine, _mask(bucket, window, q), scale), strict=True
        ):
            flat = found.transpose(1, 2).flatten(0, 1)
            if bucket.run is not None:
                into[bucket.run] = flat
            else:
                into.index_copy_(0, bucket.tokens, flat.index_select(0, bucket.inside))
    return gradients


@cache
def _flash_works(device: torch.device, kind: torch.dtype) -> bool:
    """Whether the variable-length kernel is here and right: tried once, with a window and grouped queries."""
    lengths, starts, heads = (5, 33, 1), (0, 5, 38), ((4, 64), (2, 64), (2, 64))
    numbers = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(39, *shape, generator=numbers).to(device, kind) for shape in heads)
    slope, where = torch.randn(39, 4, 64, generator=numbers).to(device, kind), Where(lengths, starts, device)
    try:
        for window in (None, 7):
            wanted, kept = lay(q, k, v, where, None, window)
            slopes = lay_back(slope, (q, k, v, wanted), kept, where, None, window)
            found, graph = flash.forward(q, k, v, where, None, window)
            for one, other in zip((found, *flash.backward(slope, graph)), (wanted, *slopes), strict=True):
                off = float((one.float() - other.float()).abs().max())
                if not off <= AGREE * float(other.float().abs().max()):
                    log.warning("without FlashAttention: it is off by %.3g", off)
                    return False
    except (RuntimeError, ValueError, NotImplementedError) as error:
        log.warning("without FlashAttention: %s", error)
        return False
    return True


def _forward(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, mask: torch.Tensor | None, scale: float | None
) -> list[torch.Tensor]:
    """Output [rows, heads, length, d] and what the backward pass wants."""
    if q.device.type == "cpu":
        return list(
            torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
                q, k, v, 0.0, mask is None, attn_mask=mask, scale=scale
            )
        )
    groups = q.shape[1] != k.shape[1]
    how = {"attn_mask": mask, "is_causal": mask is None, "scale": scale, "enable_gqa": groups}
    out, kept = flash.graphed(partial(functional.scaled_dot_product_attention, **how), (q, k, v))
    return [out, *kept]


def _backward(
    slope: torch.Tensor,
    made: tuple[torch.Tensor, ...],
    kept: Sequence[torch.Tensor],
    mask: torch.Tensor | None,
    scale: float | None,
) -> Sequence[torch.Tensor]:
    q, k, v, out = made
    if q.device.type == "cpu":
        return torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward(
            slope, q, k, v, out, kept[0], 0.0, mask is None, attn_mask=mask, scale=scale
        )
    return flash.backward(slope, kept)


def _mask(bucket: Bucket, window: int | None, like: torch.Tensor) -> torch.Tensor | None:
    """Additive, [1, 1, length, length], where a window is shorter than the rows; None: causal will do."""
    if window is None or window >= bucket.length:
        return None
    return sliding_mask(bucket.length, window, like.device, like.dtype)


class Attention(Function):
    """``core`` under autograd."""

    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> torch.Tensor:
        """Arguments as ``core``'s."""
        query, key, value, where, scale, window = inputs
        ctx.how = (where, scale, window)
        out, ctx.kept = core(query, key, value, where, scale, window)
        ctx.save_for_backward(query, key, value, out)
        return out

    @staticmethod
    def backward(ctx: Any, *slopes: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        """Toward query, key and value."""
        return *core_back(slopes[0], ctx.saved_tensors, ctx.kept, *ctx.how), None, None, None


@lru_cache(maxsize=8)
def sliding_mask(length: int, window: int, device: torch.device, dtype: torch.dtype) -> torch.Tensor:
    """[1, 1, length, length]: 0 where a token looks, else minus infinity."""
    at = torch.arange(length, device=device)
    ahead = at[:, None] - at[None, :]
    hidden = (ahead < 0) | (ahead >= window)
    return torch.zeros(length, length, device=device, dtype=dtype).masked_fill_(hidden, -torch.inf)[
        None, None
    ]
