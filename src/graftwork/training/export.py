"""Adapters in PEFT's format: safetensors and a minimal ``adapter_config.json``, written afresh each time."""

from __future__ import annotations

import json
from pathlib import Path, PurePath

import torch
from safetensors.torch import save_file

from graftwork.core.errors import TrainingError
from graftwork.core.specs import BaseRef, LoraSpec
from graftwork.training.engine import Adapter
from graftwork.training.targets import parameter_config

WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"


def write_adapter(directory: Path, adapter: Adapter, lora: LoraSpec, base: BaseRef) -> None:
    """Write the adapter as PEFT reads it; the same adapter gives the same bytes.

    Raises:
        TrainingError: ``adapter_not_finite``, a weight is NaN or infinite.
    """
    if not torch.isfinite(adapter.weights).all():
        raise TrainingError(
            "The adapter has weights that are not numbers.",
            fix="Lower the learning_rate_multiplier.",
            code="adapter_not_finite",
        )
    directory.mkdir(parents=True, exist_ok=True)
    tensors = {name: tensor.contiguous().cpu() for name, tensor in adapter.tensors().items()}
    save_file(tensors, directory / WEIGHTS, metadata={"format": "pt"})
    config = config_of(adapter, lora, base)
    (directory / CONFIG).write_text(json.dumps(config, indent=2) + "\n")


def config_of(adapter: Adapter, lora: LoraSpec, base: BaseRef) -> dict[str, object]:
    """The adapter's ``adapter_config.json``."""
    config = peft_config(adapter.targets, lora, base)
    if adapter.parameters:
        config |= parameter_config(adapter.parameters, adapter.expert_rank, lora)
    return config


def peft_config(targets: tuple[str, ...], lora: LoraSpec, base: BaseRef) -> dict[str, object]:
    """The keys a reader of the adapter needs, and no more: what is left out has PEFT's default."""
    config: dict[str, object] = {
        "base_model_name_or_path": _portable(base),
        "bias": "none",
        "inference_mode": True,
        "lora_alpha": int(lora.alpha) if lora.alpha.is_integer() else lora.alpha,
        "lora_dropout": lora.dropout,
        "peft_type": "LORA",
        "r": lora.rank,
        "target_modules": sorted(targets),
        "task_type": "CAUSAL_LM",
        "use_rslora": lora.rslora,
    }
    return config | ({"use_dora": True} if lora.dora else {})


def _portable(base: BaseRef) -> str:
    """The repository's name; a local folder's place on this machine is nobody else's business."""
    for name in (base.repository, base.name):
        if not PurePath(name).is_absolute():
            return name
    return PurePath(base.repository).name
