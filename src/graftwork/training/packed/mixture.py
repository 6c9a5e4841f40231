"""A mixture's experts in a model that runs packed: frozen for all, with each span's own adapter."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from graftwork.training.packed.experts import Frozen, Stack, Stretch, split_experts
from graftwork.training.packed.now import Now


class PackedExperts(nn.Module):
    """Takes the place of a transformers module of stacked experts.

    Args:
        base: that module; see ``targets.is_experts``.
        name: its full name in the model.
    """

    def __init__(self, base: nn.Module, name: str, now: Now) -> None:
        super().__init__()
        self.base, self.now = base, now
        experts, hidden, inner = Frozen.of(base).sizes
        self.stack = Stack(name, experts, hidden, inner)

    def forward(self, hidden_states: Tensor, top_k_index: Tensor, top_k_weights: Tensor) -> Tensor:
        """[T, hidden], int64 [T, k] and [T, k] to [T, hidden]."""
        stretches = tuple(self._stretches(len(hidden_states)))
        adapted = torch.is_grad_enabled() and any(stretch.lora for stretch in stretches)
        return split_experts(
            hidden_states,
            top_k_weights,
            top_k_index,
            Frozen.of(self.base),
            stretches,
            self.now.anchor if adapted else None,
        )

    def _stretches(self, tokens: int) -> Iterator[Stretch]:
        layout = self.now.layout
        if layout is None:
            yield Stretch(tokens, None)
            return
        for span in layout.spans:
            lora = span.tenant.experts.get(self.stack.name) if span.tenant else None
            yield Stretch(span.tokens.stop - span.tokens.start, lora)
