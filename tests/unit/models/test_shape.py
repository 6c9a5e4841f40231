"""Sizes of known models against what is published of them, and of tiny ones against themselves."""

import json

import pytest
import torch
from tinymodels import ARCHITECTURES, make_model
from transformers import AutoModelForCausalLM

from graftwork.core.errors import InvalidRequest
from graftwork.core.specs import LoraSpec
from graftwork.models import Catalogue
from graftwork.models.folder import describe
from graftwork.models.known import KNOWN
from graftwork.models.memory import adapter_parameters, expert_rank
from graftwork.models.shape import Shape
from graftwork.models.support import refuse_unserved, servers
from graftwork.training.solo import SoloEngine

PUBLISHED = {
    "Qwen/Qwen3-0.6B": 0.596,
    "Qwen/Qwen3-1.7B": 1.72,
    "Qwen/Qwen3-4B": 4.02,
    "Qwen/Qwen3-8B": 8.19,
    "Qwen/Qwen3-14B": 14.77,
    "Qwen/Qwen3-32B": 32.76,
    "Qwen/Qwen3-30B-A3B": 30.53,
    "Qwen/Qwen3-Next-80B-A3B-Instruct": 80.0,
    "meta-llama/Llama-3.1-8B-Instruct": 8.03,
    "meta-llama/Llama-3.1-70B-Instruct": 70.55,
    "meta-llama/Llama-3.3-70B-Instruct": 70.55,
    "mistralai/Mistral-7B-Instruct-v0.3": 7.25,
    "mistralai/Mistral-Small-24B-Instruct-2501": 23.57,
    "google/gemma-3-270m-it": 0.268,
    "google/gemma-3-1b-it": 1.0,
    "zai-org/GLM-4-9B-0414": 9.4,
    "zai-org/GLM-4-32B-0414": 32.6,
    "openai/gpt-oss-20b": 20.9,
    "openai/gpt-oss-120b": 116.8,
}
"""Weights in billions."""


def billions(name):
    return Catalogue().get(name).shape


def test_every_entry_has_its_published_size():
    assert {entry.name for entry in KNOWN} == set(PUBLISHED)
    for name, wanted in PUBLISHED.items():
        assert billions(name).parameters / 1e9 == pytest.approx(wanted, rel=0.02), name


@pytest.mark.parametrize(
    ("name", "active", "heads"),
    # the embeddings that the publisher counts among the active weights: both, or the output's alone
    [
        ("Qwen/Qwen3-30B-A3B", 3.3, 2),
        ("Qwen/Qwen3-Next-80B-A3B-Instruct", 3.9, 2),
        ("openai/gpt-oss-20b", 3.61, 1),
        ("openai/gpt-oss-120b", 5.13, 1),
    ],
)
def test_active_weights_are_the_published_ones(name, active, heads):
    shape = billions(name)
    counted = shape.active_parameters + heads * shape.vocab * shape.hidden
    assert counted / 1e9 == pytest.approx(active, rel=0.02)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_tiny_model_is_described_as_it_is(tmp_path, architecture):
    folder = make_model(tmp_path / "model", architecture)
    shape = describe(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    # norms, biases and a recurrence's own numbers are left out: matrices only
    matrices = sum(p.numel() for p in model.parameters() if p.dim() > 1)
    biases = sum(p.numel() for n, p in model.named_parameters() if p.dim() > 1 and n.endswith("_bias"))
    assert shape.parameters == matrices - biases
    engine = SoloEngine(model.eval())
    for lora in (LoraSpec(rank=6), LoraSpec(rank=6, expert_rank=2, targets=("q_proj", "o_proj"))):
        assert len(engine.add(lora, seed=0).weights) == adapter_parameters(shape, lora)


def test_experts_share_the_rank_unless_asked():
    shape = billions("Qwen/Qwen3-30B-A3B")
    assert expert_rank(shape, LoraSpec(rank=16)) == 2
    assert expert_rank(shape, LoraSpec(rank=16, expert_rank=5)) == 5
    one, two = (adapter_parameters(shape, LoraSpec(targets=("experts",), expert_rank=r)) for r in (1, 2))
    assert two == 2 * one == 2 * 48 * 128 * (2048 + 2 * 768 + 768 + 2048)


@pytest.mark.parametrize(
    ("fields", "dense", "linear", "windowed"),
    [
        ({"mlp_only_layers": [0, 3], "num_experts": 4}, 2, 0, 0),
        ({"decoder_sparse_step": 2, "num_experts": 4}, 4, 0, 0),
        ({"first_k_dense_replace": 1, "n_routed_experts": 4, "moe_intermediate_size": 8}, 1, 0, 0),
        ({"sliding_window": 64}, 0, 0, 8),
        ({"sliding_window": 64, "use_sliding_window": False}, 0, 0, 0),
        ({"sliding_window": 64, "sliding_window_pattern": 4}, 0, 0, 6),
        (
            {
                "full_attention_interval": 4,
                "linear_num_value_heads": 4,
                "linear_num_key_heads": 2,
                "linear_key_head_dim": 8,
                "linear_value_head_dim": 8,
            },
            0,
            6,
            0,
        ),
    ],
)
def test_layers_of_several_kinds_are_counted_from_the_config(fields, dense, linear, windowed):
    shape = Shape.of_config(
        {
            "model_type": "any",
            "hidden_size": 32,
            "num_hidden_layers": 8,
            "num_attention_heads": 4,
            "intermediate_size": 64,
            "vocab_size": 100,
            "max_position_embeddings": 64,
            "num_experts_per_tok": 2,
            **fields,
        }
    )
    assert (shape.dense_layers, shape.windowed_layers) == (dense, windowed)
    assert (shape.linear_attention.layers if shape.linear_attention else 0) == linear


def test_targets_are_named_by_the_part_they_are_in():
    assert billions("Qwen/Qwen3-Next-80B-A3B-Instruct").targets == {
        "attention": ("q_proj", "k_proj", "v_proj", "o_proj"),
        "linear_attention": ("in_proj_qkvz", "in_proj_ba", "out_proj"),
        "experts": ("experts",),
        "shared_expert": ("gate_proj", "up_proj", "down_proj", "shared_expert_gate"),
    }
    assert billions("zai-org/GLM-4-9B-0414").targets["mlp"] == ("gate_up_proj", "down_proj")


def test_what_no_engine_serves_is_refused_before_training():
    shape = billions("openai/gpt-oss-20b")
    assert [name for name, why in servers(shape, LoraSpec()).items() if why] == ["vllm"]
    with pytest.raises(InvalidRequest, match="interleaved experts") as caught:
        refuse_unserved(shape, LoraSpec(), "openai/gpt-oss-20b", ("vllm",))
    assert caught.value.code == "target_unserved"
    assert "q_proj" in str(caught.value.fix)
    refuse_unserved(shape, LoraSpec(targets=("q_proj", "o_proj")), "openai/gpt-oss-20b", ("vllm",))
    refuse_unserved(shape, LoraSpec(), "openai/gpt-oss-20b", ("embedded",))
    with pytest.raises(InvalidRequest, match="router"):
        refuse_unserved(shape, LoraSpec(targets=("router",)), "openai/gpt-oss-20b")
    refuse_unserved(billions("Qwen/Qwen3-8B"), LoraSpec(), "Qwen/Qwen3-8B", ("vllm",))


def test_an_architecture_nobody_looked_at_is_refused(tmp_path):
    folder = make_model(tmp_path / "model", "llama")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "model_type": "mamba"}))
    with pytest.raises(InvalidRequest, match="'mamba'"):
        Catalogue(allow=["*"]).get(str(folder))
