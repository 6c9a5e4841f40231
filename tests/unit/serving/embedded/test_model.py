"""Base models that this engine would compute wrongly are refused before their weights are read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from graftwork.core.errors import InvalidRequest
from graftwork.serving.embedded.model import BaseModel

PLAIN: dict[str, Any] = {
    "model_type": "qwen3",
    "vocab_size": 40,
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 8,
    "max_position_embeddings": 64,
}


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"model_type": "gpt2"}, "gpt2"),
        ({"model_type": "no_such_thing"}, "cannot be read"),
        ({"layer_types": ["full_attention", "chunked_attention"]}, "chunked_attention"),
        ({"model_type": "gemma3_text", "final_logit_softcapping": 30.0}, "caps its logits"),
        ({"rope_parameters": {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4}}, "dynamic"),
        ({"quantization_config": {"quant_method": "bitsandbytes", "load_in_4bit": True}}, "quantized"),
        ({}, "weights cannot be loaded"),
    ],
)
def test_unsuitable_models(tmp_path: Path, change: dict, reason: str) -> None:
    (tmp_path / "config.json").write_text(json.dumps({**PLAIN, **change}))
    with pytest.raises(InvalidRequest, match=reason) as caught:
        BaseModel(tmp_path, torch.device("cpu"), torch.float32)
    assert caught.value.code == "unsupported_model"


def test_a_folder_without_a_config(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match="config cannot be read"):
        BaseModel(tmp_path, torch.device("cpu"), torch.float32)
