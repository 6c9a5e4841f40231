"""What is known of one base model: its shape, its LoRA rate, its prices."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from graftwork.core.specs import LoraSpec

Source = Literal["builtin", "local", "hub"]


@dataclass(frozen=True, slots=True)
class Prices:
    """Micro-dollars per million tokens."""

    train: int
    input: int
    output: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """Sizes of a decoder-only transformer, as in its ``config.json``."""

    family: str
    """``model_type``: qwen3, llama, …"""
    hidden: int
    layers: int
    intermediate: int
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
        return cls(
            family=str(config["model_type"]),
            hidden=hidden,
            layers=int(config["num_hidden_layers"]),
            intermediate=int(config.get("moe_intermediate_size") or config["intermediate_size"]),
            heads=heads,
            kv_heads=int(config.get("num_key_value_heads") or heads),
            head_dim=int(config.get("head_dim") or hidden // heads),
            vocab=int(config["vocab_size"]),
            context=int(config["max_position_embeddings"]),
            tied=bool(config.get("tie_word_embeddings", False)),
            experts=int(config.get("num_experts") or config.get("num_local_experts") or 0),
            active_experts=int(config.get("num_experts_per_tok") or 0),
            dtype=str(config.get("dtype") or config.get("torch_dtype") or "bfloat16"),
        )

    @property
    def linears(self) -> dict[str, tuple[int, int, int]]:
        """Linear modules of one layer: name to (inputs, outputs, copies); copies counts experts."""
        hidden, wide, narrow = self.hidden, self.heads * self.head_dim, self.kv_heads * self.head_dim
        copies = max(self.experts, 1)
        return {
            "q_proj": (hidden, wide, 1),
            "k_proj": (hidden, narrow, 1),
            "v_proj": (hidden, narrow, 1),
            "o_proj": (wide, hidden, 1),
            "gate_proj": (hidden, self.intermediate, copies),
            "up_proj": (hidden, self.intermediate, copies),
            "down_proj": (self.intermediate, hidden, copies),
        }

    @property
    def block_parameters(self) -> int:
        """Weights of all layers, without embeddings and norms (those are below one part in a thousand)."""
        router = self.hidden * self.experts
        one = sum(inputs * outputs * copies for inputs, outputs, copies in self.linears.values())
        return self.layers * (one + router)

    @property
    def active_parameters(self) -> int:
        """Weights of all layers that one token meets: of the experts, only those it is routed to."""
        used = max(self.active_experts, 1)
        one = sum(i * o * (used if copies > 1 else 1) for i, o, copies in self.linears.values())
        return self.layers * (one + self.hidden * self.experts)

    @property
    def embedding_parameters(self) -> int:
        """Weights of the embedding, and of the output layer where it is not the same."""
        return self.vocab * self.hidden * (1 if self.tied else 2)

    @property
    def parameters(self) -> int:
        """All weights."""
        return self.block_parameters + self.embedding_parameters


@dataclass(frozen=True, slots=True, kw_only=True)
class CatalogueEntry:
    """One base model of the catalogue.

    Attributes:
        name: what a customer sends as ``model``.
        source: where the files come from.
        repository: hub repository, absolute path of a folder, or ``seedling``.
        revision: commit or content hash; ``main`` for a hub model that is not pinned yet (see ``pin``).
        lora_learning_rate: peak rate of a LoRA at multiplier 1.
        lora: the default adapter.
        engines: engines that can serve it; trainers: trainers that can train it.
    """

    name: str
    source: Source
    repository: str
    revision: str
    shape: Shape
    licence: str
    lora_learning_rate: float
    rate_reason: str
    lora: LoraSpec
    prices: Prices
    engines: tuple[str, ...] = ("embedded",)
    trainers: tuple[str, ...] = ("native",)

    @property
    def family(self) -> str:
        """``model_type`` of its config."""
        return self.shape.family

    @property
    def parameters(self) -> int:
        """Number of weights."""
        return self.shape.parameters

    @property
    def hidden(self) -> int:
        """Width of the residual stream."""
        return self.shape.hidden

    @property
    def layers(self) -> int:
        """Number of layers."""
        return self.shape.layers

    @property
    def vocab(self) -> int:
        """Number of token ids."""
        return self.shape.vocab

    @property
    def context(self) -> int:
        """Longest sequence in tokens."""
        return self.shape.context

    @property
    def linear_modules(self) -> tuple[str, ...]:
        """Names of the linear modules ``all-linear`` stands for."""
        return tuple(self.shape.linears)
