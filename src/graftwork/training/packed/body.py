"""A transformers model made to run packed: linear layers that serve every adapter, attention by rows."""

from __future__ import annotations

import itertools
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint
from transformers import AttentionInterface, PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer

from graftwork.core.errors import TrainingError
from graftwork.data.rendering import Encoded
from graftwork.training.loading import straight_head
from graftwork.training.lora import linear_modules
from graftwork.training.packed.attention import Attention
from graftwork.training.packed.bank import Group, Site
from graftwork.training.packed.experts import Stack
from graftwork.training.packed.layout import Layout, Stretch, pack
from graftwork.training.packed.linear import PackedLinear
from graftwork.training.packed.llama import FusedLayer, fusable
from graftwork.training.packed.mixers import PackedDelta, is_delta
from graftwork.training.packed.mixture import PackedExperts
from graftwork.training.packed.now import Now
from graftwork.training.packed.sinks import attend_with_sinks
from graftwork.training.targets import Inventory, is_experts

_numbers = itertools.count()


class Body:
    """The decoder of a causal language model: packed tokens to the hidden states of the labelled ones.

    Args:
        model: in eval mode; frozen and patched here, for good.
        fuse: run layers of known shape as fused halves.

    Raises:
        TrainingError: ``unsupported_model``, packed it computes something else than by itself.
    """

    def __init__(self, model: PreTrainedModel, fuse: bool = True) -> None:
        model.requires_grad_(False)
        self.fuse, self.selects = fuse, False
        self.model, self.device = model, model.device
        self.decoder: nn.Module = model.get_decoder()
        self.head = straight_head(model, self.decoder)
        self.width = int(self.head.weight.shape[1])
        self.vocabulary = int(self.head.weight.shape[0])
        self.now = Now(anchor=torch.zeros((), device=self.device, requires_grad=True))
        rows = _trial_rows(self.vocabulary)
        wanted = [self._plain(row) for row in rows]
        self.inventory = Inventory.of(model, self.decoder, self.head)
        self.stacks: list[Stack] = []
        self.groups = self._patch()
        self._compare(rows, torch.cat(wanted))

    def run(self, layout: Layout, noise: torch.Tensor | None = None) -> torch.Tensor:
        """Hidden states [n, width] before the head; differentiable toward the adapters.

        Until ``now.rest``, the modules believe that this pass is under way: its backward pass needs them to.

        Args:
            noise: fp32 [T, width], added to the embeddings.
        """
        self.now.begin(layout)
        embedded = self.model.get_input_embeddings()(layout.ids)
        if noise is not None:
            embedded = embedded + noise.to(embedded)
        hidden = self.decoder(
            inputs_embeds=embedded[None], position_ids=layout.positions[None], use_cache=False
        ).last_hidden_state
        return hidden[0] if self.selects else hidden[0].index_select(0, layout.where)

    def recompute(self) -> None:
        """Hold one layer's activations at a time from now on, and compute them again in the backward pass."""
        for module in self.model.modules():
            if isinstance(module, GradientCheckpointingLayer):
                module.forward = partial(checkpoint, module.forward, use_reentrant=False)

    @torch.no_grad()
    def _plain(self, row: Encoded) -> torch.Tensor:
        """What the model itself makes of a row alone."""
        ids = torch.tensor([row.tokens[:-1]], device=self.device)
        return self.decoder(input_ids=ids, use_cache=False).last_hidden_state[0]

    @torch.no_grad()
    def _compare(self, rows: list[Encoded], wanted: torch.Tensor) -> None:
        try:
            found = self.run(pack([Stretch(None, rows)], self.device))
        finally:
            self.now.rest()
        if not alike(found, wanted):
            raise unsupported(self.model)

    def _patch(self) -> list[Group]:
        layers: list[tuple[str, nn.Module]] = [
            (name, module)
            for name, module in self.model.named_modules()
            if isinstance(module, GradientCheckpointingLayer)
        ]
        groups: list[Group] = []
        for number, (name, layer) in enumerate(layers):
            if self.fuse and fusable(layer):
                fused = FusedLayer(layer, name, self.now, last=number == len(layers) - 1)
                groups += fused.groups
                self.selects |= fused.selects
                layer.forward = fused
        taken = {site.name for group in groups for site in group.sites}
        for name, module in linear_modules(self.model, self.head).items():
            if name not in taken:
                groups.append(Group((Site(name, module.in_features, module.out_features),)))
                _replace(self.model, name, PackedLinear(module, name, self.now))
        self._patch_mixtures()
        name = f"graftwork-packed-{next(_numbers)}"
        AttentionInterface.register(name, partial(packed_attention, self.now))
        self.model.set_attn_implementation(name)
        return groups

    def _patch_mixtures(self) -> None:
        """Experts, and token mixers that are not attention."""
        for name, module in list(self.model.named_modules()):
            if is_experts(module):
                packed = PackedExperts(module, name, self.now)
                self.stacks.append(packed.stack)
                _replace(self.model, name, packed)
            elif is_delta(module):
                _replace(self.model, name, PackedDelta(module, self.now))


def alike(found: torch.Tensor, wanted: torch.Tensor) -> bool:
    """Whether hidden states [tokens, width] are the same but for rounding.

    In half precision a token near a tie meets another expert for rounding alone, and is then far off.
    Rows that saw each other would be so in most tokens: only those of the first row see nothing before them.
    """
    if found.dtype is torch.float32:
        return torch.allclose(found, wanted, rtol=1e-3, atol=1e-3)
    off = (found.float() - wanted.float()).norm(dim=1) / wanted.float().norm(dim=1)
    return bool(off.median() <= 0.05)


def _replace(model: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, last = name.rpartition(".")
    model.get_submodule(parent).register_module(last, module)


def packed_attention(
    now: Now,
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: torch.Tensor | None = None,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """transformers' attention interface: ``query [1, heads, T, d]`` and so on, to [1, T, heads, d]."""
    if softcap is not None or query.shape[0] != 1:
        raise unsupported(module)
    q, k, v = (tensor[0].transpose(0, 1) for tensor in (query, key, value))
    if s_aux is not None:
        return attend_with_sinks(q, k, v, s_aux, now.rows, scaling, sliding_window)[None], None
    return Attention.apply(q, k, v, now.rows, scaling, sliding_window)[None], None


def unsupported(module: nn.Module) -> TrainingError:
    """The error of a model that cannot run packed."""
    return TrainingError(
        f"{type(module).__name__} cannot run packed: rows would not be what they are alone.",
        fix="Use another base model, or another trainer.",
        code="unsupported_model",
    )


def _trial_rows(vocabulary: int) -> list[Encoded]:
    """Rows of differing length, each token labelled."""
    rows: list[Encoded] = []
    for length in (6, 9, 4):
        tokens = [(7 * length + 3 * at) % vocabulary for at in range(length)]
        rows.append(Encoded(tokens, [True] * length, length))
    return rows
