"""The base model, made to compute one row of many sequences' tokens with many adapters."""

from __future__ import annotations

import itertools
from collections.abc import Sequence as Rows
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AttentionInterface, AutoConfig, AutoModelForCausalLM
from transformers.configuration_utils import PretrainedConfig

from graftwork.core.errors import InvalidRequest
from graftwork.models.folder import SERVED
from graftwork.serving.embedded.adapters import Adapter, LinearShape
from graftwork.serving.embedded.batch import Batch, Segment, attend, lay_out
from graftwork.serving.embedded.kv import KVShape
from graftwork.serving.embedded.lora import Mixer, wrap_linears

ROPE = ("default", "linear", "llama3", "yarn")
"""Rotary embeddings whose angles depend on a token's position alone, never on its neighbours in the batch."""

_numbers = itertools.count()


class BaseModel:
    """A frozen causal model. Used by one thread at a time.

    Attributes:
        linears: the modules an adapter may change, by path.
        context: longest sequence, in tokens.
        vocabulary: number of token ids.
        weights: number of parameters.
    """

    def __init__(self, directory: Path, device: torch.device, dtype: torch.dtype) -> None:
        """Load from a folder. Blocks for as long as the weights take to read.

        Raises:
            InvalidRequest: not a model this engine can run (code ``unsupported_model``).
        """
        config = _checked_config(directory)
        self.device, self.dtype = device, dtype
        self.mixer = Mixer()
        self._batch: Batch | None = None
        implementation = f"graftwork-{next(_numbers)}"
        AttentionInterface.register(implementation, self._attention)
        try:
            model: Any = AutoModelForCausalLM.from_pretrained(
                directory,
                config=config,
                dtype=dtype,
                attn_implementation=implementation,
                local_files_only=True,
                trust_remote_code=False,
                use_safetensors=True,
            )
        except (OSError, ValueError, RuntimeError) as error:
            raise _unsupported(directory, f"its weights cannot be loaded ({error})") from error
        model = model.to(device).eval().requires_grad_(False)
        self.linears: dict[str, LinearShape] = wrap_linears(model, self.mixer, "model.layers")
        self.weights: int = sum(parameter.numel() for parameter in model.parameters())
        self._decoder: nn.Module = model.model
        self._head: nn.Module = model.lm_head
        self.context: int = config.max_position_embeddings
        self.vocabulary: int = config.vocab_size
        self.kv = KVShape(
            layers=config.num_hidden_layers,
            heads=config.num_key_value_heads,
            dim=config.to_dict().get("head_dim") or config.hidden_size // config.num_attention_heads,
            dtype=dtype,
            device=device,
        )

    def compute(self, segments: Rows[Segment], adapters: Rows[Adapter | None]) -> torch.Tensor:
        """Run one iteration: fills the lanes' caches and advances their lengths.

        Args:
            segments: what to compute, sorted by ``batch.order``; their lanes have room.
            adapters: one for each segment; None is the base.

        Returns:
            The last layer's normed states, [T, hidden], tokens in the segments' order.

        Raises:
            RuntimeError: torch failed (out of memory, say); lengths have not advanced.
        """
        batch = lay_out(segments, self.device)
        pairs = zip(segments, adapters, strict=True)
        self.mixer.begin([a for segment, a in pairs for _ in segment.tokens], self.device)
        self._batch = batch
        try:
            out = self._decoder(
                input_ids=batch.tokens, position_ids=batch.positions, use_cache=False
            ).last_hidden_state[0]
        finally:
            self._batch = None
            self.mixer.end()
        for segment in segments:
            segment.lane.length += len(segment.tokens)
        return out

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """[n, hidden] to float32 logits [n, vocabulary]."""
        return self._head(hidden).float()

    def _attention(
        self,
        module: nn.Module,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        attention_mask: torch.Tensor | None,
        scaling: float | None = None,
        **_: Any,
    ) -> tuple[torch.Tensor, None]:
        """Transformers' attention interface, over the batch of the current iteration."""
        assert self._batch is not None, "the model computes only within compute()"
        layer: Any = module.layer_idx
        scale = query.shape[-1] ** -0.5 if scaling is None else scaling
        return attend(self._batch, layer, query, key, value, scale), None


def _checked_config(directory: Path) -> PretrainedConfig:
    try:
        config = AutoConfig.from_pretrained(directory, local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise _unsupported(directory, f"its config cannot be read ({error})") from error
    if config.model_type not in SERVED:
        raise _unsupported(
            directory, f"its architecture is {config.model_type!r}, not one of {', '.join(SERVED)}"
        )
    kinds = set(config.to_dict().get("layer_types") or ())
    window = config.to_dict().get("sliding_window")
    if kinds - {"full_attention"} or (not kinds and window):
        raise _unsupported(directory, "it has layers that attend to a sliding window only")
    rope = (config.to_dict().get("rope_parameters") or {}).get("rope_type", "default")
    if rope not in ROPE:
        raise _unsupported(directory, f"its positions are scaled by {rope!r}, which depends on the batch")
    if config.to_dict().get("quantization_config"):
        raise _unsupported(directory, "its weights are quantized")
    return config


def _unsupported(directory: Path, why: str) -> InvalidRequest:
    return InvalidRequest(
        f"The embedded engine cannot serve the model in {directory}: {why}.",
        fix="Choose another base model, or another engine for this one.",
        code="unsupported_model",
        param="base",
    )
