"""Llama-shaped decoder layers of transformers, made into fused halves.

The modules keep their parameters, as views of the fused buffers: the memory is that of one base model.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from graftwork.training.nf4 import Nf4, Nf4Linear
from graftwork.training.packed.bank import Group, Site
from graftwork.training.packed.fused import AttentionHalf, AttentionPart, Frozen, MlpHalf, MlpPart
from graftwork.training.packed.now import Now

WHOLE = frozenset({"LlamaDecoderLayer", "MistralDecoderLayer", "Qwen2DecoderLayer", "Qwen3DecoderLayer"})
"""Layers of which both halves are fused."""
ATTENTION = WHOLE | {"Qwen3MoeDecoderLayer"}
"""Layers whose attention half is fused."""


class FusedLayer:
    """Takes the place of a decoder layer's ``forward``.

    Args:
        layer: of a class named in ``ATTENTION``, its linear layers plain.
        name: of the layer in the model.
        now: the engine's.
        last: whether no layer follows.
    """

    def __init__(self, layer: nn.Module, name: str, now: Now, last: bool) -> None:
        self._modules: dict[str, Any] = dict(layer.named_modules())
        self._name, self._now = name, now
        self.groups: list[Group] = []
        whole = type(layer).__name__ in WHOLE
        self.selects = last and whole
        """Only labelled tokens leave the layer."""
        self._attention = self._attention_part()
        self._mlp = self._mlp_part() if whole else None

    def __call__(
        self,
        hidden_states: torch.Tensor,
        *,
        position_embeddings: tuple[torch.Tensor, torch.Tensor],
        **_: object,
    ) -> torch.Tensor:
        """[1, T, width] to the same; to [1, n, width], labelled tokens alone, where the layer selects."""
        now = self._now
        state = now.state(position_embeddings)
        h = AttentionHalf.apply(hidden_states[0], now.anchor, self._attention, state)
        if self._mlp is not None:
            return MlpHalf.apply(h, now.anchor, self._mlp, state)[None]
        out = self._modules["mlp"](self._modules["post_attention_layernorm"](h[None]))
        return h[None] + (out[0] if isinstance(out, tuple) else out)

    def _attention_part(self) -> AttentionPart:
        attention, norm = self._modules["self_attn"], self._modules["input_layernorm"]
        norms = [self._modules.get(f"self_attn.{which}_norm") for which in "qk"]
        weights = [None if each is None else each.weight for each in norms]
        return AttentionPart(
            entry=self._frozen(*(f"self_attn.{which}_proj" for which in "qkv")),
            exit=self._frozen("self_attn.o_proj"),
            norm=norm.weight,
            eps=norm.variance_epsilon,
            query_norm=weights[0],
            key_norm=weights[1],
            heads=attention.config.num_attention_heads,
            kv_heads=attention.config.num_key_value_heads,
            size=attention.head_dim,
            scale=attention.scaling,
            window=_window(attention),
            last=self.selects,
        )

    def _mlp_part(self) -> MlpPart:
        norm = self._modules["post_attention_layernorm"]
        return MlpPart(
            entry=self._frozen("mlp.gate_proj", "mlp.up_proj"),
            exit=self._frozen("mlp.down_proj"),
            norm=norm.weight,
            eps=norm.variance_epsilon,
            last=self.selects,
        )

    def _frozen(self, *names: str) -> Frozen:
        found: list[nn.Linear] = [self._modules[name] for name in names]
        sites = [
            Site(f"{self._name}.{name}", module.in_features, module.out_features)
            for name, module in zip(names, found, strict=True)
        ]
        group = Group(tuple(sites))
        self.groups.append(group)
        return Frozen(group.key, *_merge(found))


def fusable(layer: nn.Module) -> bool:
    """Whether a decoder layer is of a known shape and holds plain weights, or all of them in 4 bits."""
    linear = [module for module in layer.modules() if isinstance(module, nn.Linear)]
    modules: dict[str, Any] = dict(layer.named_modules())
    return (
        type(layer).__name__ in ATTENTION
        and {type(module) for module in linear} in ({nn.Linear}, {Nf4Linear})
        and (type(layer).__name__ not in WHOLE or modules["mlp"].config.hidden_act in ("silu", "swish"))
    )


def _window(attention: Any) -> int | None:
    """Tokens that a token of this layer sees; None: all before it."""
    if type(attention).__name__ == "MistralAttention":
        return attention.config.sliding_window
    return vars(attention).get("sliding_window")


def _merge(
    modules: Sequence[nn.Linear],
) -> tuple[torch.Tensor | tuple[Nf4, ...], torch.Tensor | None]:
    """All weights below one another, and all biases; the modules' own parameters become views.

    Weights in 4 bits stay the modules' own: they are put below one another when they are read.
    """
    packed = tuple(module.packed for module in modules if isinstance(module, Nf4Linear))
    if packed:
        return packed, _biases(modules, packed[0].dtype, packed[0].device)
    if len(modules) == 1:
        return modules[0].weight.data, None if modules[0].bias is None else modules[0].bias.data
    weight = torch.cat([module.weight.data for module in modules])
    bias = _biases(modules, weight.dtype, weight.device)
    at = 0
    for module in modules:
        here = slice(at, at + module.out_features)
        module.weight = nn.Parameter(weight[here], requires_grad=False)
        if bias is not None and module.bias is not None:
            module.bias = nn.Parameter(bias[here], requires_grad=False)
        at += module.out_features
    return weight, bias


def _biases(modules: Sequence[nn.Linear], dtype: torch.dtype, device: torch.device) -> torch.Tensor | None:
    """Behind one another, zeros where a module has none; None if none has."""
    if all(module.bias is None for module in modules):
        return None
    return torch.cat(
        [
            torch.zeros(module.out_features, dtype=dtype, device=device)
            if module.bias is None
            else module.bias.data
            for module in modules
        ]
    )
