"""Attention with sinks (gpt-oss), over packed rows."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from graftwork.training.packed.attention import sliding_mask
from graftwork.training.packed.where import Where


def attend_with_sinks(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    sinks: Tensor,
    where: Where,
    scale: float | None,
    window: int | None,
) -> Tensor:
    """As ``attention.Attention``, by autograd: ``sinks`` [heads] is a score of each head, frozen, that takes
    its share of the attention and gives nothing.
    """
    out = query.new_empty(*query.shape[:-1], value.shape[-1])
    for bucket in where.buckets:
        q, k, v = (bucket.lay(tensor).transpose(1, 2) for tensor in (query, key, value))
        k, v = (functional.pad(tensor, (0, 0, 0, 1)) for tensor in (k, v))  # a key of zeros scores 0
        seen = sliding_mask(bucket.length, window or bucket.length, q.device, q.dtype)[0]
        last = sinks.detach().to(q.dtype)[:, None, None].expand(-1, bucket.length, 1)
        mask = torch.cat([seen.expand(len(sinks), -1, -1), last], dim=-1)
        found = functional.scaled_dot_product_attention(
            q, k, v, mask, scale=scale, enable_gqa=q.shape[1] != k.shape[1]
        )
        flat = found.transpose(1, 2).flatten(0, 1)
        if bucket.run is not None:
            out = out.slice_scatter(flat, 0, bucket.run.start, bucket.run.stop)
        else:
            out = out.index_copy(0, bucket.tokens, flat.index_select(0, bucket.inside))
    return out
