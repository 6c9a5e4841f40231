"""Attention of packed rows on CUDA by FlashAttention's variable-length form: one launch for all rows.

Dao 2023 (arXiv:2307.08691), as PyTorch brings it. Half precision only; a row sees itself alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.nn.attention.varlen import varlen_attn

from graftwork.training.packed.where import Where

LARGEST, EVEN = 256, 8
"""Size of a head: at most, and a multiple of."""


def takes(query: torch.Tensor, value: torch.Tensor) -> bool:
    """Whether it is made for such tensors."""
    size = query.shape[-1]
    return (
        query.device.type == "cuda"
        and query.dtype in (torch.bfloat16, torch.float16)
        and size == value.shape[-1]
        and size <= LARGEST
        and size % EVEN == 0
    )


def forward(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    where: Where,
    scale: float | None,
    window: int | None,
) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """Arguments and results as ``attention.core``'s."""
    before = -1 if window is None else window - 1
    how = (where.edges, where.edges, where.longest, where.longest)
    groups = query.shape[1] != key.shape[1]
    return graphed(
        lambda q, k, v: varlen_attn(q, k, v, *how, scale=scale, window_size=(before, 0), enable_gqa=groups),
        (query, key, value),
    )


def graphed(
    kernel: Callable[..., Any], tensors: Sequence[torch.Tensor]
) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """Output of a kernel that brings its own backward pass, and its graph, which ``backward`` wants."""
    with torch.enable_grad():
        leaves = [tensor.detach().requires_grad_() for tensor in tensors]
        out = kernel(*leaves)
    return out.detach(), [out, *leaves]


def backward(
    slope: torch.Tensor, kept: Sequence[torch.Tensor]
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Gradients toward query, key and value; ``kept`` is the second of ``graphed``'s results."""
    query, key, value = torch.autograd.grad(kept[0], list(kept[1:]), slope.contiguous())
    return query, key, value
