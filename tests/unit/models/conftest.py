"""Model folders without a model: the files that are looked at."""

import json
import struct
from pathlib import Path

import pytest

CONFIG = {
    "model_type": "qwen3",
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "intermediate_size": 128,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "vocab_size": 500,
    "max_position_embeddings": 256,
    "tie_word_embeddings": True,
    "dtype": "float32",
}


def safetensors(values: int, fill: bytes = b"\0") -> bytes:
    header = json.dumps({"w": {"dtype": "U8", "shape": [values], "data_offsets": [0, values]}}).encode()
    return struct.pack("<Q", len(header)) + header + fill * values


@pytest.fixture
def make_model(tmp_path):
    """(name, config changes) → a folder that looks like a base model."""

    def make(name: str = "model", **changes) -> Path:
        folder = tmp_path / name
        folder.mkdir(parents=True)
        config = {key: value for key, value in {**CONFIG, **changes}.items() if value is not None}
        (folder / "config.json").write_text(json.dumps(config))
        (folder / "tokenizer.json").write_text("{}")
        (folder / "model.safetensors").write_bytes(safetensors(1000))
        return folder

    return make
