"""Routed experts with many adapters in one batch, as split LoRA: never W + BA, always x W and then x A B.

The tokens' copies (one for each expert a token is sent to) are sorted by expert, so each expert's weights are
read once for all sequences; the copies of one adapter keep that order, so its own small halves are read once
for each of its experts too. ScatterMoE's idea and Punica's together (Tan et al. 2024, arXiv:2403.08245; Chen
et al. 2023, arXiv:2310.18547).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from graftwork.models.lora import EXPERT_PARAMETERS
from graftwork.serving.embedded.adapters import LinearShape, StackedPair
from graftwork.serving.embedded.lora import Mixer

_FEW = 64
"""Copies up to which an expert's halves are copied for each, rather than grouped by expert."""


@dataclass(frozen=True, slots=True)
class _Sorted:
    """Copies of tokens, sorted by expert."""

    tokens: torch.Tensor
    """[n]: token of each copy."""
    experts: torch.Tensor
    """[n]: expert of each copy, not falling."""
    ends: torch.Tensor
    """[experts] int32: end of each expert's copies."""


class MixedExperts(nn.Module):
    """A frozen module of stacked experts, and the adapters' part for the tokens of the iteration."""

    def __init__(self, frozen: nn.Module, path: str, mixer: Mixer) -> None:
        super().__init__()
        self.frozen: Any = frozen
        self._targets = tuple(f"{path}.{name}" for name in EXPERT_PARAMETERS)
        self._mixer = mixer

    def forward(
        self, hidden_states: torch.Tensor, top_k_index: torch.Tensor, top_k_weights: torch.Tensor
    ) -> torch.Tensor:
        """[T, hidden], [T, k] experts, [T, k] weights to [T, hidden]."""
        count = top_k_index.shape[1]
        flat = top_k_index.reshape(-1)
        order = flat.argsort(stable=True)
        experts = flat[order]
        ends = flat.bincount(minlength=self.frozen.num_experts).cumsum(0).int()
        copies = _Sorted(order // count, experts, ends)
        wide = self._product(hidden_states[copies.tokens], self.frozen.gate_up_proj, 0, copies)
        out = self._product(self.frozen._apply_gate(wide), self.frozen.down_proj, 1, copies)
        out *= top_k_weights.reshape(-1)[order][:, None]
        back = torch.empty_like(out)
        back[order] = out
        return back.view(-1, count, out.shape[-1]).sum(1)

    def _product(self, rows: torch.Tensor, weight: torch.Tensor, which: int, copies: _Sorted) -> torch.Tensor:
        """[n, in] to [n, out]: each copy times its expert's matrix, and its adapter's part added."""
        straight = weight if self.frozen.is_transposed else weight.transpose(1, 2)
        out = functional.grouped_mm(rows, straight, offs=copies.ends)
        if self.frozen.has_bias:
            bias = self.frozen.down_proj_bias if which else self.frozen.gate_up_proj_bias
            out += bias[copies.experts]
        for pair, mine in self._mixer.stacked(self._targets[which], copies.tokens):
            if mine is None:
                out += _low_rank(rows, copies.experts, pair)
            elif len(mine):
                out.index_add_(0, mine, _low_rank(rows[mine], copies.experts[mine], pair))
        return out


def _low_rank(rows: torch.Tensor, experts: torch.Tensor, pair: StackedPair) -> torch.Tensor:
    """[n, in] to [n, out] through the halves of each row's expert; rows stand in the experts' order."""
    if len(rows) <= _FEW:
        return torch.bmm(torch.bmm(rows[:, None], pair.down[experts]), pair.up[experts])[:, 0]
    ends = experts.bincount(minlength=len(pair.down)).cumsum(0).int()
    return functional.grouped_mm(functional.grouped_mm(rows, pair.down, offs=ends), pair.up, offs=ends)


def wrap_experts(model: nn.Module, mixer: Mixer) -> dict[str, tuple[int, LinearShape]]:
    """Wrap every module of stacked experts. Returns (experts, shape of one) of each stacked parameter."""
    shapes: dict[str, tuple[int, LinearShape]] = {}
    found = [(path, module) for path, module in model.named_modules() if path.endswith(".mlp.experts")]
    for path, module in found:
        model.get_submodule(path.rpartition(".")[0]).register_module(
            "experts", MixedExperts(module, path, mixer)
        )
        frozen: Any = module
        for name in EXPERT_PARAMETERS:
            count, *sizes = frozen.get_parameter(name).shape
            inputs, outputs = sizes if frozen.is_transposed else reversed(sizes)
            shapes[f"{path}.{name}"] = (count, LinearShape(inputs, outputs))
    return shapes
