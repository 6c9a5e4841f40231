"""What is written for vLLM is the same adapter, in its words; that vLLM reads it so is shown in its lane."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tinyadapters import everything, make_random_adapter
from tinymodels import make_model

from graftwork.core.errors import InvalidRequest
from graftwork.serving.vllm_adapter import for_vllm, max_lora_rank


def _delta(halves: dict[str, torch.Tensor], path: str) -> torch.Tensor:
    key = f"base_model.model.{path}.lora_"
    return halves[f"{key}B.weight"] @ halves[f"{key}A.weight"]


def test_experts_are_cut_out_of_their_stacks_with_the_scale_folded_in(tmp_path: Path) -> None:
    base = make_model(tmp_path / "base", "qwen3_moe")
    made = everything(tmp_path / "adapter", base, "qwen3_moe", rank=4, alpha=12, expert_rank=2)
    assert for_vllm(made, tmp_path / "out", experts=8) == 4
    old = load_file(made / "adapter_model.safetensors")
    new = load_file(tmp_path / "out" / "adapter_model.safetensors")
    assert len(new) == 2 * (2 * 4 + 2 * 8 * 3)
    prefix = "base_model.model.model.layers.1.mlp.experts"
    gate_up = torch.einsum(
        "ore,eri->eoi",
        old[f"{prefix}.base_layer.lora_B.weight"].view(48, 2, 8),
        old[f"{prefix}.base_layer.lora_A.weight"].view(8, 2, 32),
    )
    down = torch.einsum(
        "ore,eri->eoi",
        old[f"{prefix}.lora_B.weight"].view(32, 2, 8),
        old[f"{prefix}.lora_A.weight"].view(8, 2, 24),
    )
    for expert in range(8):
        path = f"model.layers.1.mlp.experts.{expert}"
        torch.testing.assert_close(_delta(new, f"{path}.gate_proj"), 2 * gate_up[expert, :24])
        torch.testing.assert_close(_delta(new, f"{path}.up_proj"), 2 * gate_up[expert, 24:])
        torch.testing.assert_close(_delta(new, f"{path}.down_proj"), 2 * down[expert])
    q_proj = "model.layers.0.self_attn.q_proj"
    torch.testing.assert_close(_delta(new, q_proj), 3 * _delta(old, q_proj))
    config = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"]) == (4, 4)
    assert "rank_pattern" not in config and "target_parameters" not in config
    assert set(config["target_modules"]) == {
        *("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
    }


def test_gate_and_up_in_one_become_two(tmp_path: Path) -> None:
    base = make_model(tmp_path / "base", "glm4")
    made = make_random_adapter(tmp_path / "adapter", base, modules=("gate_up_proj",), alpha=4)
    for_vllm(made, tmp_path / "out")
    old = load_file(made / "adapter_model.safetensors")
    new = load_file(tmp_path / "out" / "adapter_model.safetensors")
    both = [_delta(new, f"model.layers.0.mlp.{name}") for name in ("gate_proj", "up_proj")]
    torch.testing.assert_close(torch.cat(both), _delta(old, "model.layers.0.mlp.gate_up_proj"))


def test_what_vllm_does_not_serve_is_refused(tmp_path: Path) -> None:
    base = make_model(tmp_path / "base")
    dora = make_random_adapter(tmp_path / "dora", base, modules=("q_proj",), use_dora=True)
    with pytest.raises(InvalidRequest, match="merge it into the base"):
        for_vllm(dora, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_rank_that_vllm_must_be_started_with() -> None:
    assert [max_lora_rank(rank) for rank in (1, 2, 8, 9, 300, 512)] == [1, 8, 8, 16, 320, 512]
