"""Peak memory of training: one base, and for each run on it an adapter, its optimizer and its activations.

Reckoned from shapes, checked against the real trainer (tests/integration/models/test_measured_memory.py) and
against what is published of known models (tests/unit/models/test_planning.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from graftwork.core.specs import LoraSpec, Method, Quantization, TrainerName
from graftwork.models.shape import Linear, Shape

Device = Literal["cpu", "gpu"]

BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
NF4_BYTES = 0.516
"""A weight in NF4 with double quantization: 4 bits, and 0.127 bits of block scales (Dettmers et al. 2023,
arXiv:2305.14314, section 3)."""
_ADAM_COPIES = 4
"""fp32 values kept per adapter weight: the weight, its gradient, and Adam's two moments."""
_RUNTIME = {"cpu": 520 << 20, "gpu": 1200 << 20}
"""The process itself: Python and PyTorch; on a GPU also the CUDA context and its libraries."""
HELD_LOGITS = 1 << 22
"""Logits the native engine holds at once."""
PASS_TOKENS: dict[Device, int] = {"cpu": 4096, "gpu": 16_384}
"""Tokens of one pass of the native engine; larger steps are several passes, longer rows one each."""
_NATIVE_SHARE = 0.5
"""Of the values that ``kept_values`` counts, those that the fused native layers keep; others keep all."""
_WORKING = 1.2
"""Layers' worth of values alive besides what is kept: the gradients of the layer at hand."""
_LOGIT_COPIES = 3
"""fp32 values alive per held logit: itself, its softmax and its gradient."""
SEQUENCES: dict[Method, int] = {"sft": 1, "cpt": 1, "dpo": 2, "orpo": 2, "kto": 1}
"""Sequences an example makes; TRL's KTO adds one without gradients, for its estimate of the divergence."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """What one run brings into a step.

    Attributes:
        lora: its adapter.
        tokens: most tokens of one micro-batch, over all its sequences.
        labelled: those of them that carry loss.
        method, trainer: how it is trained.
        longest: tokens of its longest row, which no pass can be smaller than.
    """

    lora: LoraSpec
    tokens: int
    labelled: int
    method: Method = "sft"
    trainer: TrainerName = "native"
    longest: int = 0


def adapter_parameters(shape: Shape, lora: LoraSpec) -> int:
    """Weights of a LoRA: ``rank * (inputs + outputs)`` for each target module; routed experts each their own,
    of ``expert_rank``."""
    experts = expert_rank(shape, lora)
    return sum(
        (experts if linear.group == "experts" else lora.rank)
        * (linear.inputs + linear.outputs)
        * linear.copies
        * linear.layers
        for linear in shape.linears
        if adapts(lora, linear)
    )


def adapts(lora: LoraSpec, linear: Linear) -> bool:
    """Whether a LoRA changes such a matrix. DoRA never changes what lies beside or among experts."""
    if lora.targets != "all-linear":
        return linear.name in lora.targets
    return not (lora.dora and linear.group in ("experts", "shared_expert"))


def expert_rank(shape: Shape, lora: LoraSpec) -> int:
    """Rank on each routed expert: as asked, else the rank divided by the active experts, at least 1."""
    return lora.expert_rank or max(1, lora.rank // max(shape.active_experts, 1))


def profile(
    shape: Shape,
    loads: Sequence[Load],
    *,
    device: Device = "cpu",
    quantization: Quantization = "none",
    recompute: bool = False,
) -> dict[str, int]:
    """Bytes at the peak of a step in which all of ``loads`` take part, by what they are for.

    The base's weights are there once, whatever the number of runs. With ``recompute`` a layer keeps its input
    alone, and one layer at a time is held whole while the gradient passes through it.
    """
    width = 4 if device == "cpu" else BYTES.get(shape.dtype, 2)
    tokens, native = _together(loads, device)
    rank = max((load.lora.rank for load in loads), default=0)
    layer = tokens * kept_values(shape, rank) * width
    share = _NATIVE_SHARE if native else 1.0
    if recompute:
        held = tokens * shape.layers * shape.hidden * width + (share + _WORKING) * layer
    else:
        held = (shape.layers * share + _WORKING) * layer
    parts = {
        "weights": weight_bytes(shape, device, quantization),
        "adapter": sum(adapter_parameters(shape, load.lora) for load in loads) * 4 * _ADAM_COPIES,
        "activations": round(held),
        "logits": _logits(shape, loads),
        "runtime": _RUNTIME[device],
    }
    if quantization == "nf4":
        # one layer's weights at a time are unpacked, for all runs at once
        parts["unpacked"] = shape.block_parameters // max(shape.layers, 1) * width
    return parts


def weight_bytes(shape: Shape, device: Device, quantization: Quantization) -> int:
    """Bytes of the frozen base: fp32 on a CPU, its own type on a GPU; in NF4 all but the embeddings."""
    width = 4 if device == "cpu" else BYTES.get(shape.dtype, 2)
    if quantization == "none":
        return shape.parameters * width
    return round(shape.block_parameters * NF4_BYTES) + shape.embedding_parameters * width


def kept_values(shape: Shape, rank: int) -> int:
    """Values that a layer keeps of a token for the backward pass.

    The residual stream and norms, queries, keys, values and the attention's output, gate, up and their
    product in each expert the token meets, and LoRA's narrow products. Of layers of two kinds the mean.
    """
    attention = (2 * shape.heads + 2 * shape.kv_heads) * shape.head_dim
    if shape.linear_attention:
        # projections, what the convolution made of them, and the output before and after its gate
        sizes = shape.linear_attention
        recurrent = 2 * sizes.keys + 3 * sizes.values
        attention += (recurrent - attention) * sizes.layers // max(shape.layers, 1)
    wide = shape.intermediate * max(shape.active_experts, 1) + shape.shared
    return 6 * shape.hidden + 2 * attention + 4 * wide + 7 * rank


def _together(loads: Sequence[Load], device: Device) -> tuple[int, bool]:
    """Tokens whose activations are alive at once, and whether all are the native engine's."""
    tokens = sum(load.tokens for load in loads)
    if any(load.trainer != "native" for load in loads):
        return tokens, False
    return min(tokens, max(PASS_TOKENS[device], *(load.longest for load in loads), 0)), True


def _logits(shape: Shape, loads: Sequence[Load]) -> int:
    """Logits and what their loss needs: labelled positions in chunks; TRL's preference trainers hold all."""
    chunked = sum(load.labelled for load in loads if not _holds_all(load))
    whole = max((load.tokens for load in loads if _holds_all(load)), default=0)
    held = max(min(chunked, max(1, HELD_LOGITS // shape.vocab)) if chunked else 0, whole)
    return held * shape.vocab * 4 * _LOGIT_COPIES


def _holds_all(load: Load) -> bool:
    return load.trainer == "trl" and load.method in ("dpo", "orpo", "kto")
