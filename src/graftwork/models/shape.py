"""Sizes of a decoder-only language model, and what follows from them: weights, targets, active weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

Group = Literal["attention", "linear_attention", "mlp", "shared_expert", "experts"]
EXPERTS = "experts"
"""The routed experts' name among LoRA's targets."""


class Linear(NamedTuple):
    """A kind of matrix in the layers, as LoRA sees it."""

    name: str
    """Last name of the module; ``experts`` for the stacked ones."""
    inputs: int
    outputs: int
    copies: int
    """Of it in a layer: experts have one each."""
    layers: int
    """Layers that have it."""
    group: Group

    @property
    def weights(self) -> int:
        """In the whole model."""
        return self.inputs * self.outputs * self.copies * self.layers


@dataclass(frozen=True, slots=True, kw_only=True)
class LinearAttention:
    """Sizes of a layer that mixes tokens by a recurrence (Gated DeltaNet, Yang et al. 2024,
    arXiv:2412.06464)."""

    layers: int
    key_heads: int
    value_heads: int
    key_dim: int
    value_dim: int
    kernel: int = 4
    """Tokens its short convolution sees."""

    @property
    def keys(self) -> int:
        """Width of all keys."""
        return self.key_heads * self.key_dim

    @property
    def values(self) -> int:
        """Width of all values."""
        return self.value_heads * self.value_dim


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """Sizes of a decoder-only transformer, as in its ``config.json``."""

    family: str
    """``model_type``: qwen3, llama, …"""
    hidden: int
    layers: int
    intermediate: int
    """Width of the MLP; of one expert in a mixture."""
    heads: int
    kv_heads: int
    head_dim: int
    vocab: int
    context: int
    tied: bool
    """Whether the output layer is the embedding."""
    experts: int = 0
    """Routed experts a layer; 0 for a dense model."""
    active_experts: int = 0
    dtype: str = "bfloat16"
    shared: int = 0
    """Width of the expert that every token meets beside the routed ones; 0 without."""
    dense_layers: int = 0
    """Layers of a mixture that have an ordinary MLP, ``dense_intermediate`` wide."""
    dense_intermediate: int = 0
    gated: bool = False
    """Whether attention's output passes a gate as wide as its queries, made by ``q_proj``."""
    fused_mlp: bool = False
    """Whether gate and up are one module, ``gate_up_proj``."""
    linear_attention: LinearAttention | None = None
    window: int = 0
    """Tokens that ``windowed_layers`` look back at; 0 without."""
    windowed_layers: int = 0

    @classmethod
    def of_config(cls, config: dict[str, Any]) -> Shape:
        """From a transformers ``config.json`` of the Llama kind.

        Raises:
            KeyError: a size is missing; the model is not a decoder of a known kind.
        """
        inner = config.get("text_config")
        if isinstance(inner, dict):
            config = {**inner, "tie_word_embeddings": config.get("tie_word_embeddings", False)}
        heads, hidden = int(config["num_attention_heads"]), int(config["hidden_size"])
        layers, family = int(config["num_hidden_layers"]), str(config["model_type"])
        experts = _first(config, "num_experts", "num_local_experts", "n_routed_experts")
        kinds = _layer_kinds(config, layers)
        dense = _dense_layers(config, layers) if experts else 0
        windowed = sum("sliding" in kind for kind in kinds)
        return cls(
            family=family,
            hidden=hidden,
            layers=layers,
            intermediate=int(config.get("moe_intermediate_size") or config["intermediate_size"]),
            heads=heads,
            kv_heads=int(config.get("num_key_value_heads") or heads),
            head_dim=int(config.get("head_dim") or hidden // heads),
            vocab=int(config["vocab_size"]),
            context=int(config["max_position_embeddings"]),
            tied=bool(config.get("tie_word_embeddings", family in _TIED)),
            experts=experts,
            active_experts=_first(config, "num_experts_per_tok") if experts else 0,
            dtype=str(config.get("dtype") or config.get("torch_dtype") or "bfloat16"),
            shared=_shared(config) if experts else 0,
            dense_layers=dense,
            dense_intermediate=int(config["intermediate_size"]) if dense else 0,
            gated=family in _GATED,
            fused_mlp=family in _FUSED,
            linear_attention=_linear_attention(config, kinds),
            window=_first(config, "sliding_window") if windowed else 0,
            windowed_layers=windowed,
        )

    @property
    def linears(self) -> tuple[Linear, ...]:
        """The matrices that ``all-linear`` adapts, in the order of a layer."""
        wide, narrow = self.heads * self.head_dim, self.kv_heads * self.head_dim
        recurrent = self.linear_attention.layers if self.linear_attention else 0
        count = self.layers - recurrent
        found = [
            Linear("q_proj", self.hidden, wide * (2 if self.gated else 1), 1, count, "attention"),
            Linear("k_proj", self.hidden, narrow, 1, count, "attention"),
            Linear("v_proj", self.hidden, narrow, 1, count, "attention"),
            Linear("o_proj", wide, self.hidden, 1, count, "attention"),
            *self._recurrent(),
        ]
        if not self.experts:
            return (*found, *self._mlp(self.intermediate, self.layers, "mlp"))
        mixed = self.layers - self.dense_layers
        # gate and up are one stack for PEFT, and one pair of LoRA
        found += [
            Linear(EXPERTS, self.hidden, 2 * self.intermediate, self.experts, mixed, "experts"),
            Linear(EXPERTS, self.intermediate, self.hidden, self.experts, mixed, "experts"),
        ]
        if self.shared:
            found += self._mlp(self.shared, mixed, "shared_expert")
            if self.family in _SHARED_GATE:
                found.append(Linear("shared_expert_gate", self.hidden, 1, 1, mixed, "shared_expert"))
        if self.dense_layers:
            found += self._mlp(self.dense_intermediate, self.dense_layers, "mlp")
        return tuple(found)

    def _mlp(self, width: int, layers: int, group: Group) -> list[Linear]:
        down = Linear("down_proj", width, self.hidden, 1, layers, group)
        if self.fused_mlp:
            return [Linear("gate_up_proj", self.hidden, 2 * width, 1, layers, group), down]
        names = ("gate_proj", "up_proj")
        return [*(Linear(name, self.hidden, width, 1, layers, group) for name in names), down]

    def _recurrent(self) -> list[Linear]:
        sizes = self.linear_attention
        if sizes is None:
            return []
        return [
            Linear(name, inputs, outputs, 1, sizes.layers, "linear_attention")
            for name, inputs, outputs in (
                ("in_proj_qkvz", self.hidden, 2 * sizes.keys + 2 * sizes.values),
                ("in_proj_ba", self.hidden, 2 * sizes.value_heads),
                ("out_proj", sizes.values, self.hidden),
            )
        ]

    @property
    def targets(self) -> dict[str, tuple[str, ...]]:
        """Names that ``lora.targets`` may list, by the part of the model they are in."""
        found: dict[str, tuple[str, ...]] = {}
        for linear in self.linears:
            names = found.get(linear.group, ())
            found[linear.group] = names if linear.name in names else (*names, linear.name)
        return found

    @property
    def adapter_shapes(self) -> dict[str, tuple[tuple[int, int, int], ...]]:
        """Possible (inputs, outputs, experts) of an adapter's pair, by the end of its tensors' path.

        PEFT wraps stacked experts once for each parameter: ``experts`` is down, ``experts.base_layer`` is
        gate and up.
        """
        found: dict[str, tuple[tuple[int, int, int], ...]] = {}
        for linear in self.linears:
            name = linear.name
            if name == EXPERTS and f"{EXPERTS}.base_layer" not in found:
                name = f"{EXPERTS}.base_layer"  # gate and up come first
            size = (linear.inputs, linear.outputs, linear.copies)
            found[name] = tuple(dict.fromkeys((*found.get(name, ()), size)))
        return found

    @property
    def block_parameters(self) -> int:
        """Weights of all layers, without embeddings and norms (those are below one part in a thousand)."""
        return sum(linear.weights for linear in self.linears) + self._router + self._convolution

    @property
    def expert_parameters(self) -> int:
        """Of those, the weights of all routed experts."""
        return sum(linear.weights for linear in self.linears if linear.group == "experts")

    @property
    def active_parameters(self) -> int:
        """Weights of all layers that one token meets: of the experts, only those it is routed to."""
        return self.block_parameters - (
            self.expert_parameters * (self.experts - self.active_experts) // max(self.experts, 1)
        )

    @property
    def embedding_parameters(self) -> int:
        """Weights of the embedding, and of the output layer where it is not the same."""
        return self.vocab * self.hidden * (1 if self.tied else 2)

    @property
    def parameters(self) -> int:
        """All weights."""
        return self.block_parameters + self.embedding_parameters

    @property
    def _router(self) -> int:
        return self.hidden * self.experts * (self.layers - self.dense_layers)

    @property
    def _convolution(self) -> int:
        sizes = self.linear_attention
        return sizes.layers * sizes.kernel * (2 * sizes.keys + sizes.values) if sizes else 0


_GATED = frozenset(("qwen3_next", "qwen3_5_text", "qwen3_5_moe_text"))
_FUSED = frozenset(("glm4", "glm", "phi3"))
_SHARED_GATE = frozenset(("qwen2_moe", "qwen3_next", "qwen3_5_moe_text"))
_TIED = frozenset(("gemma", "gemma2", "gemma3_text"))
"""Families whose configs leave ``tie_word_embeddings`` out and mean true."""


def _first(config: dict[str, Any], *names: str) -> int:
    """The first of these fields that is there and not null; 0 if none is."""
    return next((int(config[name]) for name in names if config.get(name)), 0)


def _layer_kinds(config: dict[str, Any], layers: int) -> list[str]:
    """``layer_types``, or what older configs say in other words."""
    if config.get("layer_types"):
        return [str(kind) for kind in config["layer_types"]]
    if config.get("full_attention_interval") and "linear_num_value_heads" in config:
        every = int(config["full_attention_interval"])
        return ["linear_attention" if (n + 1) % every else "full_attention" for n in range(layers)]
    if config.get("sliding_window") and config.get("use_sliding_window", True):
        every = int(config.get("sliding_window_pattern") or 0)
        return ["full" if every and (n + 1) % every == 0 else "sliding_attention" for n in range(layers)]
    return ["full_attention"] * layers


def _dense_layers(config: dict[str, Any], layers: int) -> int:
    """Layers of a mixture without experts: the first few, those listed, or all between the sparse steps."""
    listed = set(config.get("mlp_only_layers") or ())
    step = int(config.get("decoder_sparse_step") or 1)
    first = int(config.get("first_k_dense_replace") or 0)
    return sum(n in listed or (n + 1) % step != 0 or n < first for n in range(layers))


def _shared(config: dict[str, Any]) -> int:
    one = _first(config, "shared_expert_intermediate_size")
    return one or _first(config, "n_shared_experts") * _first(config, "moe_intermediate_size")


def _linear_attention(config: dict[str, Any], kinds: list[str]) -> LinearAttention | None:
    count = kinds.count("linear_attention")
    if not count:
        return None
    return LinearAttention(
        layers=count,
        key_heads=int(config["linear_num_key_heads"]),
        value_heads=int(config["linear_num_value_heads"]),
        key_dim=int(config["linear_key_head_dim"]),
        value_dim=int(config["linear_value_head_dim"]),
        kernel=int(config.get("linear_conv_kernel_dim") or 4),
    )
