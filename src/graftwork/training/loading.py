"""A base model's folder to a frozen transformers model on a device."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoModelForCausalLM, PreTrainedModel
from transformers.utils import logging

from graftwork.core.errors import TrainingError
from graftwork.core.specs import Quantization
from graftwork.training.quantizing import while_reading


def load_model(
    folder: Path,
    device: torch.device,
    dtype: torch.dtype | None = None,
    quantization: Quantization = "none",
) -> PreTrainedModel:
    """The causal language model in ``folder``, in eval mode.

    Args:
        dtype: of the computation; None is bf16 on a GPU, fp32 on the CPU.
        quantization: ``nf4`` packs the weights of the layers while they are read (``quantizing.py``).

    Raises:
        TrainingError: ``base_unusable``, the folder holds no model that can be loaded so.
        PlatformError: ``quantization_unavailable``.
    """
    logging.disable_progress_bar()  # standard error is the run's log
    dtype = dtype or (torch.bfloat16 if device.type == "cuda" else torch.float32)
    options: dict[str, Any] = {}
    if quantization == "nf4":
        _refuse_quantized(folder)
        options = while_reading(device, dtype)
    try:
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, local_files_only=True, **options)
    except (OSError, ValueError) as error:
        raise TrainingError(
            f"The base model's folder cannot be loaded: {error}",
            fix="Check the base model's files, or fetch them again.",
            code="base_unusable",
        ) from error
    nn.Module.to(model, device)
    return model.eval()


def _refuse_quantized(folder: Path) -> None:
    """What is published in few bits cannot be packed into others."""
    try:
        published = json.loads((folder / "config.json").read_bytes()).get("quantization_config")
    except (OSError, ValueError):
        return  # loading says it better
    if published:
        raise TrainingError(
            "The base model is published with quantized weights; they cannot be held in NF4.",
            fix="Train it with quantization none, or on a base model published in 16 bits.",
            code="base_unusable",
        )


def straight_head(model: PreTrainedModel, decoder: nn.Module) -> nn.Linear:
    """The lm_head, if the model's logits are ``head(decoder(tokens))``: some families scale or cap them.

    Raises:
        TrainingError: ``unsupported_model``, they are something else.
    """
    head = model.get_output_embeddings()
    if isinstance(head, nn.Linear):
        ids = torch.arange(8, device=model.device)[None] % head.weight.shape[0]
        with torch.no_grad():
            whole = model(input_ids=ids, use_cache=False).logits.float()
            short = head(decoder(input_ids=ids, use_cache=False).last_hidden_state).float()
        if torch.allclose(whole, short, rtol=1e-3, atol=1e-3):
            return head
    raise TrainingError(
        f"The native engine cannot train {type(model).__name__}: its logits are not its lm_head's alone.",
        fix="Use another base model, or another trainer.",
        code="unsupported_model",
    )
