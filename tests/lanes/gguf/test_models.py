"""GGUFs of random models with random adapters: llama.cpp computes what transformers and PEFT compute."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from tinyadapters import everything, load_plain, plain_logits
from tinymodels import make_model

from graftwork.export.gguf_lora import write_lora
from graftwork.export.gguf_model import write_model
from graftwork.models.folder import seedling_folder

SIZES: dict[str, Any] = {
    "vocab_size": 4096,
    "hidden_size": 64,
    "intermediate_size": 96,
    "head_dim": 32,
    "initializer_range": 0.1,
}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 10_000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
CASES: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "qwen3": ("qwen3", {}, {}),
    "qwen2": ("qwen2", {"head_dim": 16}, {}),
    "llama": ("llama", {}, {}),
    "llama3-scaling": ("llama", {"rope_parameters": LLAMA3}, {}),
    "mistral": ("mistral", {"sliding_window": None}, {}),
    "qwen3_moe": ("qwen3_moe", {"moe_intermediate_size": 32}, {"expert_rank": 2}),
    "qwen3-dora": ("qwen3", {}, {"use_dora": True}),
    "qwen3-rslora": ("qwen3", {}, {"use_rslora": True}),
}
PROMPTS = [[5, 900, 77, 1300, 24, 4000], [(37 * n) % 4090 + 4 for n in range(90)]]


def made(folder: Path, case: str) -> tuple[Path, Path]:
    """Base model and adapter of a case; the tokenizer is the seedling's, which GGUF has a name for."""
    architecture, config, adapter = CASES[case]
    base = make_model(folder / "base", architecture, **{**SIZES, **config})
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copyfile(seedling_folder() / name, base / name)
    return base, everything(folder / "adapter", base, architecture, size=0.05, **adapter)


def close(told: dict[str, Any], plain: Any, bound: float = 0.02) -> bool:
    """Whether the likeliest tokens have the log-probabilities that transformers gives them."""
    for prompt, found in zip(PROMPTS, told["probs"], strict=True):
        expected = plain_logits(plain, prompt)[-1].log_softmax(-1)
        if max(abs(float(expected[int(token)]) - value) for token, value in found.items()) > bound:
            return False
    return True


@pytest.mark.parametrize("case", CASES)
def test_a_merged_gguf_says_what_peft_says(case: str, llama, tmp_path: Path):
    base, adapter = made(tmp_path, case)
    file = tmp_path / "model.gguf"
    write_model(base, adapter, file, "f16", name="test")
    told = llama(model=str(file), prompts=PROMPTS)
    assert close(told, load_plain(base, adapter))
    assert not close(told, load_plain(base))


@pytest.mark.parametrize("case", ["qwen3", "qwen2", "llama", "mistral", "qwen3-rslora"])
def test_a_lora_gguf_over_its_base_says_what_peft_says(case: str, llama, tmp_path: Path):
    base, adapter = made(tmp_path, case)
    model, lora = tmp_path / "model.gguf", tmp_path / "lora.gguf"
    write_model(base, None, model, "f16", name="base")
    write_lora(base, adapter, lora, name="lora")
    assert close(llama(model=str(model), lora=str(lora), prompts=PROMPTS), load_plain(base, adapter))


@pytest.mark.parametrize("quant", ["q8_0", "q4_k_m"])
@pytest.mark.parametrize("case", ["llama", "qwen3_moe"])
def test_quantized_ones_load_and_are_near(case: str, quant: Any, llama, tmp_path: Path):
    base, adapter = made(tmp_path, case)
    file = tmp_path / "model.gguf"
    write_model(base, adapter, file, quant, name="test")
    bound = 0.2 if quant == "q8_0" else 2.0
    assert close(llama(model=str(file), prompts=PROMPTS), load_plain(base, adapter), bound)
