"""Random adapters for any tiny model, saved by PEFT itself, and the model with one as PEFT runs it."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")
MLP = ("gate_proj", "up_proj", "down_proj")
SHARED = tuple(f"mlp.shared_expert.{name}.weight" for name in MLP)
"""As parameters: PEFT reads these names among the modules as those of the routed experts."""
LINEAR_ATTENTION = ("in_proj_qkvz", "in_proj_ba", "out_proj")
EXPERTS = ("mlp.experts.gate_up_proj", "mlp.experts.down_proj")

TARGETS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "qwen3": (ATTENTION + MLP, ()),
    "qwen2": (ATTENTION + MLP, ()),
    "llama": (ATTENTION + MLP, ()),
    "mistral": (ATTENTION + MLP, ()),
    "qwen3_moe": (ATTENTION, EXPERTS),
    "qwen3_next": (ATTENTION + LINEAR_ATTENTION, SHARED + EXPERTS),
    "gemma3_text": (ATTENTION + MLP, ()),
    "glm4": (("q_proj", "k_proj", "v_proj", "o_proj", "gate_up_proj", "down_proj"), ()),
    "gpt_oss": (ATTENTION, EXPERTS),
}
"""Everything an adapter can change in an architecture: linear modules, and stacked parameters."""


def make_random_adapter(
    folder: Path,
    base: Path,
    *,
    modules: tuple[str, ...],
    parameters: tuple[str, ...] = (),
    rank: int = 4,
    alpha: int = 8,
    expert_rank: int | None = None,
    seed: int = 0,
    size: float = 0.2,
    **config: Any,
) -> Path:
    """An adapter whose halves are random, as PEFT saves it. ``config`` are further fields of LoraConfig."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    patterns: dict[str, Any] = {}
    if expert_rank is not None:
        stacks = [name for name in parameters if ".experts." in name]
        patterns = {"rank_pattern": dict.fromkeys(stacks, expert_rank)}
        patterns["alpha_pattern"] = dict.fromkeys(stacks, expert_rank * 2)
    with warnings.catch_warnings():
        # PEFT asks for properties that transformers renamed, and doubts that a tiny rank is meant.
        warnings.simplefilter("ignore")
        model = get_peft_model(
            AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32),
            LoraConfig(
                r=rank,
                lora_alpha=alpha,
                target_modules=list(modules),
                target_parameters=list(parameters) or None,
                task_type="CAUSAL_LM",
                **patterns,
                **config,
            ),
        )
        random = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for name, weight in model.named_parameters():
                if ".lora_A." in name or ".lora_B." in name:
                    weight.copy_(torch.randn(weight.shape, generator=random) * size)
                elif "lora_magnitude" in name:
                    weight.mul_(1 + 0.3 * torch.rand(weight.shape, generator=random))
        model.save_pretrained(folder, save_embedding_layers=False)
    return folder


def everything(folder: Path, base: Path, architecture: str, **options: Any) -> Path:
    """An adapter on all that an adapter can change in this architecture."""
    modules, parameters = TARGETS[architecture]
    return make_random_adapter(folder, base, modules=modules, parameters=parameters, **options)


def load_plain(base: Path, adapter: Path | None = None) -> Any:
    """What everybody else would run: transformers in float32, with PEFT for an adapter."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
        return (PeftModel.from_pretrained(model, adapter) if adapter else model).eval()


def plain_logits(model: Any, tokens: list[int]) -> Any:
    """[len(tokens), vocabulary] by one plain forward."""
    import torch

    with torch.no_grad():
        return model(torch.tensor([tokens])).logits[0].float()
