"""Real architectures in a tiny random form, written as folders as transformers saves them.

``make_model(folder, "qwen3_next")`` writes config, safetensors, tokenizer and chat template of a few ten
thousand weights, the same for the same seed. ``ARCHITECTURES`` names what can be made.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from tinytraining import write_tokenizer

END = 2
_SIZES: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 256,
    "pad_token_id": 0,
    "bos_token_id": None,
    "eos_token_id": END,
    "initializer_range": 0.2,
}
_MIXTURE: dict[str, Any] = {"num_experts": 8, "num_experts_per_tok": 2, "moe_intermediate_size": 24}
_HYBRID: dict[str, Any] = {
    "num_hidden_layers": 4,
    "layer_types": ["linear_attention", "linear_attention", "linear_attention", "full_attention"],
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
    "shared_expert_intermediate_size": 24,
    "partial_rotary_factor": 0.5,
}

CONFIGS: dict[str, tuple[str, dict[str, Any]]] = {
    "qwen3": ("Qwen3Config", {"tie_word_embeddings": True}),
    "qwen2": ("Qwen2Config", {"tie_word_embeddings": True}),
    "llama": ("LlamaConfig", {"tie_word_embeddings": False}),
    # a window shorter than the tests' rows, in every layer
    "mistral": ("MistralConfig", {"sliding_window": 6, "tie_word_embeddings": False}),
    "qwen3_moe": ("Qwen3MoeConfig", {**_MIXTURE, "norm_topk_prob": True, "tie_word_embeddings": False}),
    "qwen3_next": (
        "Qwen3NextConfig",
        {**_MIXTURE, **_HYBRID, "norm_topk_prob": True, "tie_word_embeddings": False},
    ),
    "gemma3_text": (
        "Gemma3TextConfig",
        {"layer_types": ["sliding_attention", "full_attention"], "sliding_window": 6},
    ),
    "glm4": ("Glm4Config", {"tie_word_embeddings": False, "partial_rotary_factor": 0.5}),
    "gpt_oss": (
        "GptOssConfig",
        {
            "num_local_experts": 4,
            "num_experts_per_tok": 2,
            "layer_types": ["sliding_attention", "full_attention"],
            "sliding_window": 6,
            "tie_word_embeddings": False,
        },
    ),
}
"""Model type to its config class in transformers and what differs from the common sizes."""
ARCHITECTURES = tuple(CONFIGS)
DENSE = ("qwen3", "qwen2", "llama", "mistral")


def make_model(folder: Path, architecture: str = "qwen3", *, seed: int = 7, **changes: Any) -> Path:
    """Write a random model of ``architecture``, a small tokenizer and a ChatML template into ``folder``.

    ``changes`` are fields of the config. The embedding is padded to a multiple of 8 rows.
    """
    import torch
    import transformers

    folder.mkdir(parents=True)
    vocabulary = -(-write_tokenizer(folder) // 8) * 8
    name, fields = CONFIGS[architecture]
    make: Callable[..., Any] = getattr(transformers, name)  # its name is data here
    config = make(**{**_SIZES, "vocab_size": vocabulary, **fields, **changes})
    torch.manual_seed(seed)
    model = transformers.AutoModelForCausalLM.from_config(config)
    _liven(model, seed)
    model.save_pretrained(folder)
    return folder


def _liven(model: Any, seed: int) -> None:
    """Give what starts as zeros or ones random values, so that a part left out of a computation shows."""
    import torch

    random = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith(("A_log", "dt_bias")):
                continue
            if parameter.dim() == 1 or float(parameter.std()) == 0:
                parameter += 0.1 * torch.randn(parameter.shape, generator=random)
