"""Token mixers that are not attention, over packed rows: Gated DeltaNet (Yang et al. 2024, arXiv:2412.06464).

Projections, norms and gates are by the token and see all of them at once. Only the short convolution and the
recurrence go along a row: for them rows of like length are laid side by side, as for attention. Both are
causal, so what stands on the right is never seen. The recurrence is transformers' own: PyTorch on the CPU,
``fla``'s kernels on CUDA where that package is installed.
"""

from __future__ import annotations

import importlib
from typing import Any

import torch
from torch import Tensor, nn

from graftwork.training.packed.now import Now

_PARTS = (
    "in_proj_qkvz",
    "in_proj_ba",
    "conv1d",
    "dt_bias",
    "A_log",
    "norm",
    "out_proj",
    "fix_query_key_value_ordering",
)


def is_delta(module: nn.Module) -> bool:
    """Whether ``module`` is a Gated DeltaNet as Qwen3-Next has it."""
    return type(module).__name__.endswith("GatedDeltaNet") and all(hasattr(module, part) for part in _PARTS)


class PackedDelta(nn.Module):
    """Takes the place of a Gated DeltaNet of transformers; its linear layers are packed by themselves."""

    def __init__(self, base: nn.Module, now: Now) -> None:
        super().__init__()
        self.base: Any = base
        self.now = now
        home: Any = importlib.import_module(type(base).__module__)
        self._convolve, self._recur = home.causal_conv1d_fn, home.torch_chunk_gated_delta_rule

    def forward(self, hidden_states: Tensor, **_: Any) -> Tensor:
        """[1, T, hidden] to [1, T, hidden]."""
        base = self.base
        query, key, value, z, b, a = base.fix_query_key_value_ordering(
            base.in_proj_qkvz(hidden_states), base.in_proj_ba(hidden_states)
        )
        mixed = torch.cat([part.reshape(*part.shape[:2], -1) for part in (query, key, value)], dim=-1)[0]
        write = b[0].sigmoid()
        # as transformers has it: in fp16 A would be -inf without .float()
        decay = -base.A_log.float().exp() * nn.functional.softplus(a[0].float() + base.dt_bias)
        found = value.new_empty(value.shape[1:])
        for bucket in self.now.rows.buckets:
            rows = self._along(*(bucket.lay(part) for part in (mixed, write, decay))).flatten(0, 1)
            if bucket.run is not None:
                found = found.slice_scatter(rows.to(found.dtype), 0, bucket.run.start, bucket.run.stop)
            else:
                found = found.index_copy(0, bucket.tokens, rows.index_select(0, bucket.inside))
        gated = base.norm(found.reshape(-1, found.shape[-1]), z.reshape(-1, z.shape[-1]))
        return base.out_proj(gated.reshape(1, len(mixed), -1))

    def _along(self, mixed: Tensor, write: Tensor, decay: Tensor) -> Tensor:
        """Rows side by side, [rows, length, ...], to [rows, length, value heads, dim]."""
        base = self.base
        weight, bias = base.conv1d.weight.squeeze(1), base.conv1d.bias
        mixed = self._convolve(mixed.transpose(1, 2), weight, bias, activation=base.activation)
        mixed = mixed.transpose(1, 2)
        sizes = (base.key_dim, base.key_dim, base.value_dim)
        heads = (base.head_k_dim, base.head_k_dim, base.head_v_dim)
        query, key, value = (
            part.reshape(*part.shape[:2], -1, width)
            for part, width in zip(mixed.split(sizes, dim=-1), heads, strict=True)
        )
        return self._recur(query, key, value, g=decay, beta=write, use_qk_l2norm_in_kernel=True)[0]
