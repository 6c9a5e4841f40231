"""The tiny architectures that other tests build on: each loads, and the same seed writes the same weights."""

import pytest
import torch
from tinymodels import ARCHITECTURES, make_model
from transformers import AutoModelForCausalLM

from graftwork.models.folder import read_config


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_loads_as_what_it_is_called(tmp_path, architecture):
    folder = make_model(tmp_path / "model", architecture)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    assert read_config(folder)["model_type"] == architecture
    assert model(torch.arange(12)[None]).logits.std() > 0.5  # far from uniform, so that differences show


def test_same_seed_same_bytes(tmp_path):
    one, two, other = (
        make_model(tmp_path / name, "qwen3_next", seed=seed) / "model.safetensors"
        for name, seed in (("one", 1), ("two", 1), ("other", 2))
    )
    assert one.read_bytes() == two.read_bytes() != other.read_bytes()
