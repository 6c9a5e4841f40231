"""Causal attention of each row to itself, over rows that lie end to end.

Rows of like length are laid side by side, the shorter ones padded on the right with copies of their own last
token: nothing that a row reads is another row's, so a NaN stays where it is. Attention is causal, so what
stands on the right is never seen by a token that counts. Sliding windows and grouped queries are honoured.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import torch
from torch.nn import functional

WASTE = 0.15
"""Padding that a batch of rows may carry, as a share of its tokens."""


@dataclass(frozen=True, slots=True)
class Bucket:
    """Rows of like length."""

    rows: int
    length: int
    """Of the longest row."""
    run: slice | None
    """The rows' tokens, when they are neighbours of one length: then nothing need be gathered."""
    gather: torch.Tensor
    """int64 [rows × length]: the token at each place."""
    inside: torch.Tensor
    """int64: places that are no padding; empty with ``run``."""
    tokens: torch.Tensor
    """int64: the tokens at those places; empty with ``run``."""


def buckets(
    lengths: Sequence[int], starts: Sequence[int], device: torch.device, waste: float = WASTE
) -> tuple[Bucket, ...]:
    """Cut rows into batches of like length."""
    order = sorted(range(len(lengths)), key=lambda row: -lengths[row])
    groups: list[list[int]] = []
    taken = 0
    for row in order:
        if groups and taken + lengths[row] >= (1 - waste) * lengths[groups[-1][0]] * (len(groups[-1]) + 1):
            groups[-1].append(row)
            taken += lengths[row]
        else:
            groups.append([row])
            taken = lengths[row]
    return tuple(_bucket(sorted(group), lengths, starts, device) for group in groups)


def _bucket(group: list[int], lengths: Sequence[int], starts: Sequence[int], device: torch.device) -> Bucket:
    length = max(lengths[row] for row in group)
    nothing = torch.empty(0, dtype=torch.long, device=device)
    first, last = group[0], group[-1]
    if last - first + 1 == len(group) and all(lengths[row] == length for row in group):
        return Bucket(
            len(group), length, slice(starts[first], starts[last] + length), nothing, nothing, nothing
        )
    step = torch.arange(length)
    begin = torch.tensor([starts[row] for row in group])[:, None]
    size = torch.tensor([lengths[row] for row in group])[:, None]
    gather = (begin + torch.minimum(step, size - 1)).flatten().to(device)
    inside = (step < size).flatten().nonzero().flatten().to(device)
    return Bucket(len(group), length, None, gather, inside, gather[inside])


def attend(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    where: Sequence[Bucket],
    scale: float | None,
    window: int | None,
    sinks: torch.Tensor | None = None,
) -> torch.Tensor:
    """Attention of packed rows: ``query [T, heads, d]``, ``key``/``value [T, kv heads, d]`` to [T, heads, d].

    Differentiable. ``window``: a token sees so many tokens, itself included. ``sinks`` [heads]: a score of
    each head that takes its share of the attention and gives nothing (gpt-oss).
    """
    out = query.new_empty(*query.shape[:-1], value.shape[-1])
    for bucket in where:
        q, k, v = (_laid(tensor, bucket) for tensor in (query, key, value))
        mask = None
        if window is not None and window < bucket.length:
            mask = sliding_mask(bucket.length, window, query.device)
        if sinks is not None:
            k, v = (functional.pad(tensor, (0, 0, 0, 1)) for tensor in (k, v))  # a key of zeros scores 0
            mask = _with_sinks(mask, bucket.length, sinks.to(q.dtype))
        found = functional.scaled_dot_product_attention(
            q, k, v, mask, is_causal=mask is None, scale=scale, enable_gqa=q.shape[1] != k.shape[1]
        )
        flat = found.transpose(1, 2).flatten(0, 1)
        if bucket.run is not None:
            out[bucket.run] = flat
        else:
            out = out.index_copy(0, bucket.tokens, flat.index_select(0, bucket.inside))
    return out


def _laid(packed: torch.Tensor, bucket: Bucket) -> torch.Tensor:
    """[T, heads, d] to the bucket's [rows, heads, length, d]."""
    rows = packed[bucket.run] if bucket.run is not None else packed.index_select(0, bucket.gather)
    return rows.unflatten(0, (bucket.rows, bucket.length)).transpose(1, 2)


def _with_sinks(mask: torch.Tensor | None, length: int, sinks: torch.Tensor) -> torch.Tensor:
    """[heads, length, length + 1], to be added to the scores: the last column is every head's sink."""
    seen = sliding_mask(length, length, sinks.device) if mask is None else mask
    added = torch.zeros(seen.shape, dtype=sinks.dtype, device=sinks.device)
    added = added.masked_fill(~seen, float("-inf")).expand(len(sinks), -1, -1)
    return torch.cat([added, sinks[:, None, None].expand(-1, length, 1)], dim=-1)


@cache
def sliding_mask(length: int, window: int, device: torch.device) -> torch.Tensor:
    """bool [length, length]: whom each token sees."""
    at = torch.arange(length, device=device)
    ahead = at[:, None] - at[None, :]
    return (ahead >= 0) & (ahead < window)
