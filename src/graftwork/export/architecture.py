"""Which models can be written as GGUF: their metadata, and how their tensors are called and laid out there.

Follows llama.cpp's own converter (``conversion/``), for the architectures that are tested here against it.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from graftwork.core.errors import InvalidRequest
from graftwork.models.tensorfile import Floats

if TYPE_CHECKING:
    from gguf import GGUFWriter

ARCHITECTURES = {
    "qwen3": "qwen3",
    "qwen2": "qwen2",
    "llama": "llama",
    "mistral": "llama",
    "qwen3_moe": "qwen3moe",
}
"""``model_type`` to GGUF's architecture."""

_LAYER = re.compile(r"model\.layers\.(\d+)\.(.+)")
_EXPERT = re.compile(r"mlp\.experts\.(?:(\d+)\.)?(gate_proj|up_proj|down_proj|gate_up_proj)(?:\.weight)?")
_OUTER = {
    "model.embed_tokens.weight": "token_embd.weight",
    "model.norm.weight": "output_norm.weight",
    "lm_head.weight": "output.weight",
}
_INNER = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "mlp.gate": "ffn_gate_inp",
}


@dataclass(frozen=True, slots=True)
class Architecture:
    """Sizes of one model, from its ``config.json``."""

    name: str
    layers: int
    hidden: int
    intermediate: int
    heads: int
    kv_heads: int
    head_dim: int
    context: int
    eps: float
    rope: dict[str, Any]
    vocab: int
    tied: bool
    experts: int
    active_experts: int
    expert_width: int

    @classmethod
    def of_config(cls, config: dict[str, Any]) -> Architecture:
        """Read a config.

        Raises:
            InvalidRequest: llama.cpp would not compute the same (``model_unsupported``).
        """
        kind = str(config.get("model_type"))
        if kind not in ARCHITECTURES:
            raise unsupported(f"its architecture is {kind!r}, not one of {', '.join(ARCHITECTURES)}")
        window = config.get("sliding_window")
        if window and config.get("use_sliding_window", True) and window < config["max_position_embeddings"]:
            raise unsupported("its attention has a sliding window")
        if config.get("mlp_only_layers") or config.get("decoder_sparse_step", 1) != 1:
            raise unsupported("only some of its layers have experts")
        heads, hidden = int(config["num_attention_heads"]), int(config["hidden_size"])
        head_dim = int(config.get("head_dim") or hidden // heads)
        if kind == "qwen2" and head_dim * heads != hidden:
            raise unsupported("its heads together are not as wide as the model")
        return cls(
            name=ARCHITECTURES[kind],
            layers=int(config["num_hidden_layers"]),
            hidden=hidden,
            intermediate=int(config["intermediate_size"]),
            heads=heads,
            kv_heads=int(config.get("num_key_value_heads") or heads),
            head_dim=head_dim,
            context=int(config["max_position_embeddings"]),
            eps=float(config["rms_norm_eps"]),
            rope=_rope(config),
            vocab=int(config["vocab_size"]),
            tied=bool(config.get("tie_word_embeddings")),
            experts=int(config.get("num_experts") or config.get("num_local_experts") or 0),
            active_experts=int(config.get("num_experts_per_tok") or 0),
            expert_width=int(config.get("moe_intermediate_size") or 0),
        )

    def describe(self, writer: GGUFWriter) -> None:
        """Write the sizes into the metadata."""
        writer.add_block_count(self.layers)
        writer.add_context_length(self.context)
        writer.add_embedding_length(self.hidden)
        writer.add_feed_forward_length(self.intermediate)
        writer.add_head_count(self.heads)
        writer.add_head_count_kv(self.kv_heads)
        writer.add_key_length(self.head_dim)
        writer.add_value_length(self.head_dim)
        writer.add_rope_dimension_count(self.head_dim)
        writer.add_rope_freq_base(float(self.rope["rope_theta"]))
        writer.add_layer_norm_rms_eps(self.eps)
        writer.add_vocab_size(self.vocab)
        if self.experts:
            writer.add_expert_count(self.experts)
            writer.add_expert_used_count(self.active_experts)
            writer.add_expert_feed_forward_length(self.expert_width)
        if self.rope["rope_type"] in {"linear", "yarn"}:
            _scaling(writer, self.rope)

    def place(self, name: str) -> str | None:
        """GGUF's name of a tensor of the checkpoint; None for one of a single expert (they are stacked).

        Raises:
            InvalidRequest: there is no such tensor in this architecture.
        """
        if name in _OUTER:
            return _OUTER[name]
        layer = _LAYER.fullmatch(name)
        if layer is not None:
            module, _, leaf = layer[2].rpartition(".")
            if module in _INNER:
                return f"blk.{layer[1]}.{_INNER[module]}.{leaf}"
            if _EXPERT.fullmatch(layer[2]):
                return None
        raise unsupported(f"it has a tensor {name}, which GGUF has no place for")

    def lay_out(self, name: str, values: Floats) -> Floats:
        """A tensor, or half B of a LoRA, as GGUF's architecture wants its rows.

        The rotary embedding of the ``llama`` architecture turns neighbours, that of transformers the two
        halves of a head: rows of the query and key projections change places.
        """
        if self.name != "llama":
            return values
        module = name.removesuffix(".weight").removesuffix(".bias")
        heads = {"q_proj": self.heads, "k_proj": self.kv_heads}.get(module.rpartition(".")[2])
        if heads is None:
            return values
        split = values.reshape(heads, 2, values.shape[0] // heads // 2, *values.shape[1:])
        return np.ascontiguousarray(split.swapaxes(1, 2).reshape(values.shape))

    def rope_factors(self) -> Floats | None:
        """Divisors of the rotary frequencies (Llama 3.1's scaling); None without."""
        rope = self.rope
        if rope["rope_type"] != "llama3":
            return None
        factor, low, high = (float(rope[k]) for k in ("factor", "low_freq_factor", "high_freq_factor"))
        old = float(rope["original_max_position_embeddings"])
        exponents = np.arange(0, self.head_dim, 2, dtype=np.float64) / self.head_dim
        lengths = 2 * math.pi * float(rope["rope_theta"]) ** exponents
        smooth = (old / lengths - low) / (high - low)
        between = 1 / ((1 - smooth) / factor + smooth)
        far = np.where(lengths > old / low, factor, between)
        return np.where(lengths < old / high, 1.0, far).astype(np.float32)


def experts_of(layer: int) -> dict[str, tuple[str, str]]:
    """GGUF's stacked expert tensors of a layer: name to (stem of the checkpoint's names, projection)."""
    stem = f"model.layers.{layer}.mlp.experts"
    return {
        f"blk.{layer}.ffn_{short}_exps.weight": (stem, f"{short}_proj") for short in ("gate", "up", "down")
    }


def _rope(config: dict[str, Any]) -> dict[str, Any]:
    found = dict(config.get("rope_parameters") or config.get("rope_scaling") or {})
    found.setdefault("rope_theta", config.get("rope_theta", 10_000.0))
    found["rope_type"] = found.get("rope_type") or found.get("type") or "default"
    if found["rope_type"] not in {"default", "linear", "yarn", "llama3"}:
        raise unsupported(f"its rotary embedding is scaled by {found['rope_type']!r}")
    if float(found.get("partial_rotary_factor", 1.0)) != 1.0:
        raise unsupported("only a part of each head is rotated")
    return found


def _scaling(writer: GGUFWriter, rope: dict[str, Any]) -> None:
    from gguf import RopeScalingType

    yarn = rope["rope_type"] == "yarn"
    writer.add_rope_scaling_type(RopeScalingType.YARN if yarn else RopeScalingType.LINEAR)
    writer.add_rope_scaling_factor(float(rope["factor"]))
    if yarn:
        writer.add_rope_scaling_orig_ctx_len(int(rope["original_max_position_embeddings"]))


def unsupported(why: str) -> InvalidRequest:
    """The error for a model that cannot be written as GGUF."""
    return InvalidRequest(
        f"The base model cannot be written as GGUF here: {why}.",
        fix="Export it as merged, or in PEFT's format.",
        code="model_unsupported",
        param="format",
    )
