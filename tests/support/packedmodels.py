"""Random models of a few thousand weights in memory, one for each dense family."""

from __future__ import annotations

from typing import Any

SIZES: dict[str, Any] = {
    "vocab_size": 97,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 256,
    "pad_token_id": 0,
    "bos_token_id": None,
    "eos_token_id": 2,
    "initializer_range": 0.2,
    "attn_implementation": "sdpa",
}
FAMILIES = ("qwen3", "llama", "mistral", "qwen2")


def make_model(family: str, seed: int = 7, **changes: Any) -> Any:
    """A causal language model in eval mode, fp32."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    sizes = {**SIZES, **changes}
    if family == "mistral":
        sizes.setdefault("sliding_window", 6)
    if family == "qwen2":
        sizes.pop("head_dim")
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(family, **sizes))
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.normal_(parameter)
    return model.eval()
