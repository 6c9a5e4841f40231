"""Layers that remember by a state of fixed size: Gated DeltaNet (Yang et al. 2024, arXiv:2412.06464).

Each sequence has one row of states: the last inputs of the short convolution, and the matrix that the delta
rule writes. Tokens of all sequences go through the projections together, with their adapters; then the
decoding sequences advance one step together, and each chunk of a prompt advances its own row.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn import functional
from transformers.models.qwen3_next.modeling_qwen3_next import (
    Qwen3NextGatedDeltaNet,
    torch_chunk_gated_delta_rule,
    torch_recurrent_gated_delta_rule,
)

from graftwork.serving.embedded.batch import Now
from graftwork.serving.embedded.kv import States, StateShape


@dataclass(frozen=True, slots=True)
class _Inputs:
    """What the projections gave, for all T tokens."""

    mixed: torch.Tensor
    """[T, channels]: queries, keys and values side by side, before the convolution."""
    decay: torch.Tensor
    """[T, value heads] float32: logarithm of how much of the state stays."""
    beta: torch.Tensor
    """[T, value heads]: how strongly a token overwrites."""

    def part(self, start: int, end: int) -> _Inputs:
        span = slice(start, end)
        return _Inputs(self.mixed[span], self.decay[span], self.beta[span])


class MixedDeltaNet(nn.Module):
    """A frozen Gated DeltaNet layer over the batch of the iteration."""

    def __init__(self, frozen: Qwen3NextGatedDeltaNet, layer: int, now: Now) -> None:
        super().__init__()
        self.frozen: Any = frozen
        self._layer = layer
        self._now = now

    def forward(self, hidden_states: torch.Tensor, **_: Any) -> torch.Tensor:
        """[1, T, hidden] to [1, T, hidden]; advances the sequences' states."""
        net, batch = self.frozen, self._now.batch
        query, key, value, gate, b, a = net.fix_query_key_value_ordering(
            net.in_proj_qkvz(hidden_states), net.in_proj_ba(hidden_states)
        )
        mixed = torch.cat([part[0].flatten(1) for part in (query, key, value)], dim=1)
        decay = -net.A_log.float().exp() * functional.softplus(a[0].float() + net.dt_bias)
        inputs = _Inputs(mixed, decay, b[0].sigmoid())
        out = gate.new_empty(gate.shape[1:])
        states = batch.states
        assert states is not None, "the cache of a model with such layers has states"
        steps = len(batch.rows)
        if steps:
            out[:steps] = self._step(inputs.part(0, steps), states, batch.rows)
        for chunk in batch.prefills:
            row = chunk.lane.state
            out[chunk.start : chunk.end] = self._chunk(inputs.part(chunk.start, chunk.end), states, row)
        normed = net.norm(out.flatten(0, 1), gate[0].flatten(0, 1))
        return net.out_proj(normed.view(1, len(mixed), -1))

    def _step(self, inputs: _Inputs, states: States, rows: torch.Tensor) -> torch.Tensor:
        """One token of each of n sequences: [n, value heads, value dim]."""
        recent, matrix = states.recent[self._layer], states.matrix[self._layer]
        window = torch.cat([recent[rows], inputs.mixed[:, :, None]], dim=2)
        recent[rows] = window[:, :, 1:]
        query, key, value = self._split(self._convolve(window).transpose(1, 2))
        out, new = torch_recurrent_gated_delta_rule(
            query,
            key,
            value,
            g=inputs.decay[:, None],
            beta=inputs.beta[:, None],
            initial_state=matrix[rows],
            output_final_state=True,
            use_qk_l2norm_in_kernel=True,
        )
        assert new is not None, "asked for"
        matrix[rows] = new.to(matrix.dtype)
        return out[:, 0]

    def _chunk(self, inputs: _Inputs, states: States, row: int) -> torch.Tensor:
        """n tokens of one sequence: [n, value heads, value dim]."""
        recent, matrix = states.recent[self._layer], states.matrix[self._layer]
        window = torch.cat([recent[row], inputs.mixed.t()], dim=1)
        recent[row] = window[:, window.shape[1] - recent.shape[2] :]
        query, key, value = self._split(self._convolve(window[None]).transpose(1, 2))
        out, new = torch_chunk_gated_delta_rule(
            query,
            key,
            value,
            g=inputs.decay[None],
            beta=inputs.beta[None],
            initial_state=matrix[row : row + 1],
            output_final_state=True,
            use_qk_l2norm_in_kernel=True,
        )
        assert new is not None, "asked for"
        matrix[row] = new[0].to(matrix.dtype)
        return out[0]

    def _convolve(self, window: torch.Tensor) -> torch.Tensor:
        """[n, channels, size - 1 + t] to [n, channels, t]: each channel over its own last inputs."""
        conv = self.frozen.conv1d
        return functional.silu(functional.conv1d(window, conv.weight, conv.bias, groups=window.shape[1]))

    def _split(self, mixed: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """[n, t, channels] to queries and keys [n, t, key heads, dim] and values [n, t, value heads, dim]."""
        net = self.frozen
        query, key, value = mixed.split([net.key_dim, net.key_dim, net.value_dim], dim=-1)
        return (
            query.unflatten(-1, (-1, net.head_k_dim)),
            key.unflatten(-1, (-1, net.head_k_dim)),
            value.unflatten(-1, (-1, net.head_v_dim)),
        )


def wrap_recurrent(model: nn.Module, now: Now, dtype: torch.dtype, device: torch.device) -> StateShape | None:
    """Wrap every Gated DeltaNet layer. Returns what one sequence's states need, or None if there are none."""
    found = [(path, m) for path, m in model.named_modules() if isinstance(m, Qwen3NextGatedDeltaNet)]
    for layer, (path, module) in enumerate(found):
        parent, _, child = path.rpartition(".")
        model.get_submodule(parent).register_module(child, MixedDeltaNet(module, layer, now))
    if not found:
        return None
    net = found[0][1]
    return StateShape(
        layers=len(found),
        recent=(net.conv_dim, net.conv_kernel_size - 1),
        matrix=(net.num_v_heads, net.head_k_dim, net.head_v_dim),
        dtype=dtype,
        device=device,
    )
