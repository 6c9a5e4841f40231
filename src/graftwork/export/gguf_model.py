"""A base model with an adapter merged in, as one GGUF file: f16, Q8_0 or Q4_K_M.

The adapter is added in float32 and the sum rounded once, so f16 loses less than a bfloat16 checkpoint would.
Tensors are read, converted and written one by one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from gguf import GGMLQuantizationType, GGUFWriter, LlamaFileType, quant_shape_to_byte_shape

from graftwork.core.errors import InvalidRequest
from graftwork.export import blocks
from graftwork.export.architecture import Architecture, experts_of
from graftwork.export.request import Quant
from graftwork.export.vocabulary import Vocabulary, read_vocabulary
from graftwork.models.folder import read_config
from graftwork.models.merge import MergedWeights
from graftwork.models.tensorfile import Floats

_Kind = GGMLQuantizationType
_FILE = {
    "f16": LlamaFileType.MOSTLY_F16,
    "q8_0": LlamaFileType.MOSTLY_Q8_0,
    "q4_k_m": LlamaFileType.MOSTLY_Q4_K_M,
}
_BLOCKS: dict[_Kind, Callable[[Floats], blocks.Bytes]] = {
    _Kind.Q8_0: blocks.q8_0,
    _Kind.Q5_0: blocks.q5_0,
    _Kind.Q4_K: blocks.q4_k,
    _Kind.Q6_K: blocks.q6_k,
}
_SMALLER = {_Kind.Q4_K: _Kind.Q5_0, _Kind.Q6_K: _Kind.Q8_0}
"""What llama.cpp takes for rows that are no multiple of 256."""


@dataclass(frozen=True, slots=True)
class _Tensor:
    """One tensor to be written."""

    name: str
    shape: tuple[int, ...]
    kind: _Kind
    read: Callable[[], Floats]


def write_model(base: Path, adapter: Path | None, target: Path, quant: Quant, *, name: str) -> None:
    """Write the GGUF file ``target``.

    Args:
        base: folder of the base model.
        adapter: folder of the adapter; None writes the base model alone.
        target: the file; its folder is there.
        quant: how weights are held.
        name: what the file says it is.

    Raises:
        InvalidRequest: GGUF or llama.cpp has no place for this model, tokenizer or adapter.
    """
    architecture = Architecture.of_config(read_config(base))
    vocabulary = read_vocabulary(base, architecture.vocab)
    writer = GGUFWriter(target, architecture.name)
    writer.add_name(name)
    writer.add_file_type(_FILE[quant])
    if quant != "f16":
        writer.add_quantization_version(2)
    architecture.describe(writer)
    describe_vocabulary(writer, vocabulary)
    with MergedWeights(base, adapter) as weights:
        tensors = list(_tensors(architecture, weights, quant))
        for tensor in tensors:
            _announce(writer, tensor)
        try:
            writer.write_header_to_file()
            writer.write_kv_data_to_file()
            writer.write_ti_data_to_file()
            for tensor in tensors:
                writer.write_tensor_data(_converted(tensor))
        finally:
            writer.close()
        weights.check()


def describe_vocabulary(writer: GGUFWriter, vocabulary: Vocabulary) -> None:
    """Write the tokenizer and the chat template into the metadata."""
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(vocabulary.pre)
    writer.add_token_list(vocabulary.tokens)
    writer.add_token_types(vocabulary.types)
    writer.add_token_merges(vocabulary.merges)
    for kind, index in vocabulary.ids.items():
        writer.add_uint32(f"tokenizer.ggml.{kind}_token_id", index)
    writer.add_add_bos_token(vocabulary.add_bos)
    if vocabulary.chat_template is not None:
        writer.add_chat_template(vocabulary.chat_template)


def _tensors(model: Architecture, weights: MergedWeights, quant: Quant) -> Iterator[_Tensor]:
    factors = model.rope_factors()
    if factors is not None:
        yield _Tensor("rope_freqs.weight", factors.shape, _Kind.F32, lambda: factors)
    for name, shape in weights.shapes.items():
        if name.endswith("rotary_emb.inv_freq") or (name == "lm_head.weight" and model.tied):
            continue
        place = model.place(name)
        if place is None:
            continue

        def read(name: str = name) -> Floats:
            return model.lay_out(name, weights.read(name))

        yield _Tensor(place, shape, _kind(model, place, shape, quant), read)
    for layer in range(model.layers if model.experts else 0):
        for place, (stem, projection) in experts_of(layer).items():
            yield _experts(model, weights, quant, place, stem, projection)


def _experts(
    model: Architecture, weights: MergedWeights, quant: Quant, place: str, stem: str, projection: str
) -> _Tensor:
    """All experts' weights of one projection, [experts, outputs, inputs]."""
    down = projection == "down_proj"
    outputs, inputs = (model.hidden, model.expert_width) if down else (model.expert_width, model.hidden)
    shape = (model.experts, outputs, inputs)
    stacked = f"{stem}.{'down_proj' if down else 'gate_up_proj'}"

    def read() -> Floats:
        if stacked in weights.shapes:
            whole = weights.read(stacked)
            halves = {"gate_proj": whole[:, :outputs], "up_proj": whole[:, -outputs:]}
            return np.ascontiguousarray(halves.get(projection, whole))
        return np.stack([weights.read(f"{stem}.{i}.{projection}.weight") for i in range(model.experts)])

    return _Tensor(place, shape, _kind(model, place, shape, quant), read)


def _kind(model: Architecture, place: str, shape: tuple[int, ...], quant: Quant) -> _Kind:
    """How a tensor is held: llama.cpp's choice for its file type (``llama_tensor_get_type``)."""
    if len(shape) == 1 or place.endswith("ffn_gate_inp.weight"):
        return _Kind.F32
    if quant == "f16":
        return _Kind.F16
    wanted = _Kind.Q8_0 if quant == "q8_0" else _mixed(model, place)
    if wanted in _SMALLER and shape[-1] % 256:
        wanted = _SMALLER[wanted]
    return wanted if shape[-1] % 32 == 0 else _Kind.F16


def _mixed(model: Architecture, place: str) -> _Kind:
    """Q4_K_M: 4 bits, and more where errors cost most."""
    if place == "output.weight" or (place == "token_embd.weight" and model.tied):
        return _Kind.Q6_K
    parts = place.split(".")
    if parts[0] != "blk":
        return _Kind.Q4_K
    layer, module = int(parts[1]), parts[2]
    if model.experts == 8 and module in {"attn_v", "attn_k"}:
        return _Kind.Q8_0
    eighth = model.layers // 8
    more = layer < eighth or layer >= 7 * model.layers // 8 or (layer - eighth) % 3 == 2
    return _Kind.Q6_K if more and module in {"attn_v", "ffn_down", "ffn_down_exps"} else _Kind.Q4_K


def _announce(writer: GGUFWriter, tensor: _Tensor) -> None:
    if tensor.kind in _BLOCKS:
        shape = quant_shape_to_byte_shape(tensor.shape, tensor.kind)
        size = int(np.prod(shape, dtype=np.int64))
        writer.add_tensor_info(tensor.name, shape, np.dtype(np.uint8), size, raw_dtype=tensor.kind)
    else:
        dtype = np.dtype(np.float32 if tensor.kind is _Kind.F32 else np.float16)
        size = int(np.prod(tensor.shape, dtype=np.int64)) * dtype.itemsize
        writer.add_tensor_info(tensor.name, tensor.shape, dtype, size)


def _converted(tensor: _Tensor) -> np.ndarray:
    values = tensor.read()
    if tensor.kind is _Kind.F32:
        return values
    if tensor.kind is _Kind.F16:
        return to_half(tensor.name, values)
    rows = _BLOCKS[tensor.kind](values.reshape(-1, values.shape[-1]))
    return rows.reshape(*tensor.shape[:-1], -1)


def to_half(name: str, values: Floats) -> np.ndarray:
    """Values in f16.

    Raises:
        InvalidRequest: one is too large for it (``weight_overflow``).
    """
    with np.errstate(over="ignore"):
        halves = values.astype(np.float16)
    if not np.isfinite(halves).all():
        raise InvalidRequest(
            f"{name} holds values that f16 cannot.", fix="Export it as q8_0.", code="weight_overflow"
        )
    return halves
