"""An adapter as a GGUF file of its own, which llama.cpp and Ollama load beside the base model's."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from gguf import GGUFType, GGUFWriter, Keys

from graftwork.core.errors import InvalidRequest
from graftwork.export.architecture import Architecture
from graftwork.export.gguf_model import to_half
from graftwork.models.folder import read_config
from graftwork.models.lora import WEIGHTS, Part
from graftwork.models.merge import adapter_parts
from graftwork.models.tensorfile import TensorFile


def write_lora(base: Path, adapter: Path, target: Path, *, name: str) -> None:
    """Write the adapter as the GGUF file ``target``, its halves in f16.

    Raises:
        InvalidRequest: GGUF has no place for what it changes.
    """
    config = read_config(base)
    architecture = Architecture.of_config(config)
    writer = GGUFWriter(target, architecture.name)
    writer.add_type(GGUFType.ADAPTER)
    writer.add_name(name)
    writer.add_string(Keys.Adapter.TYPE, "lora")
    # llama.cpp multiplies by alpha over the rank, pair by pair: what is left of a pair's scale goes into B.
    writer.add_float32(Keys.Adapter.LORA_ALPHA, 1.0)
    with TensorFile(adapter / WEIGHTS) as weights:
        for part in adapter_parts(adapter, weights, config):
            _refuse_more_than_pairs(part)
            weight = f"{part.path}.weight"
            place = architecture.place(weight)
            up = weights.floats(part.up) * np.float32(part.scale * part.rank)
            writer.add_tensor(f"{place}.lora_a", to_half(part.path, weights.floats(part.down)))
            writer.add_tensor(f"{place}.lora_b", to_half(part.path, architecture.lay_out(weight, up)))
        try:
            writer.write_header_to_file()
            writer.write_kv_data_to_file()
            writer.write_tensors_to_file()
        finally:
            writer.close()


def _refuse_more_than_pairs(part: Part) -> None:
    why = "it trains experts" if part.parameter else "it is a DoRA" if part.magnitude else ""
    if why:
        raise InvalidRequest(
            f"This adapter cannot be a GGUF of its own: {why}.",
            fix="Export it merged into its base model: as gguf, or as merged.",
            code="adapter_unsupported",
            param="format",
        )
