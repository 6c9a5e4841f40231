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
from graftwork.serving.embedded.adapters import Adaptable, Adapter
from graftwork.serving.embedded.batch import How, Now, Segment, attend, lay_out
from graftwork.serving.embedded.experts import wrap_experts
from graftwork.serving.embedded.kv import KVShape, States
from graftwork.serving.embedded.lora import Mixer, wrap_linears
from graftwork.serving.embedded.recurrent import wrap_recurrent

ROPE = ("default", "linear", "llama3", "yarn")
"""Rotary embeddings whose angles depend on a token's position alone, never on its neighbours in the batch."""

KINDS = {"full_attention", "sliding_attention", "linear_attention"}
"""Layers that are computed here."""

_numbers = itertools.count()


class BaseModel:
    """A frozen causal model. Used by one thread at a time.

    Attributes:
        adaptable: what an adapter may change.
        kv: what a token needs in the layers with keys.
        states: what a sequence needs in the layers with states; None if there are none.
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
        self._now = Now()
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
        linears = wrap_linears(model, self.mixer, "model.layers")  # first: by the paths that adapters know
        self.adaptable = Adaptable(linears, wrap_experts(model, self.mixer))
        self.states = wrap_recurrent(model, self._now, dtype, device)
        self.weights: int = sum(parameter.numel() for parameter in model.parameters())
        self._decoder: nn.Module = model.model
        self._head: nn.Module = model.lm_head
        self.context: int = config.max_position_embeddings
        self.vocabulary: int = config.vocab_size
        kinds = config.to_dict().get("layer_types") or ["full_attention"] * config.num_hidden_layers
        with_keys = [layer for layer, kind in enumerate(kinds) if kind != "linear_attention"]
        self._keys = {layer: place for place, layer in enumerate(with_keys)}
        self.kv = KVShape(
            layers=len(with_keys),
            heads=config.num_key_value_heads,
            dim=config.to_dict().get("head_dim") or config.hidden_size // config.num_attention_heads,
            dtype=dtype,
            device=device,
        )

    def compute(
        self, segments: Rows[Segment], adapters: Rows[Adapter | None], states: States | None = None
    ) -> torch.Tensor:
        """Run one iteration: fills the lanes' caches and advances their lengths.

        Args:
            segments: what to compute, sorted by ``batch.order``; their lanes have room.
            adapters: one for each segment; None is the base.
            states: those of the lanes' cache.

        Returns:
            The last layer's normed states, [T, hidden], tokens in the segments' order.

        Raises:
            RuntimeError: torch failed (out of memory, say); lengths have not advanced.
        """
        batch = lay_out(segments, self.device, states)
        pairs = zip(segments, adapters, strict=True)
        self.mixer.begin([a for segment, a in pairs for _ in segment.tokens], self.device)
        self._now.begin(batch)
        try:
            out = self._decoder(
                input_ids=batch.tokens, position_ids=batch.positions, use_cache=False
            ).last_hidden_state[0]
        finally:
            self._now.end()
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
        sliding_window: int | None = None,
        s_aux: torch.Tensor | None = None,
        **_: Any,
    ) -> tuple[torch.Tensor, None]:
        """Transformers' attention interface, over the batch of the current iteration."""
        layer: Any = module.layer_idx
        scale = query.shape[-1] ** -0.5 if scaling is None else scaling
        how = How(scale, sliding_window or 0, s_aux)
        return attend(self._now.batch, self._keys[layer], query, key, value, how), None


def _checked_config(directory: Path) -> PretrainedConfig:
    try:
        config = AutoConfig.from_pretrained(directory, local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise _unsupported(directory, f"its config cannot be read ({error})") from error
    if config.model_type not in SERVED:
        raise _unsupported(
            directory, f"its architecture is {config.model_type!r}, not one of {', '.join(SERVED)}"
        )
    fields = config.to_dict()
    if strange := set(fields.get("layer_types") or ()) - KINDS:
        raise _unsupported(directory, f"it has layers of the kind {', '.join(sorted(strange))}")
    for rope in _ropes(fields.get("rope_parameters") or {}):
        if rope not in ROPE:
            raise _unsupported(directory, f"its positions are scaled by {rope!r}, which depends on the batch")
    if any(fields.get(name) for name in ("final_logit_softcapping", "attn_logit_softcapping")):
        raise _unsupported(directory, "it caps its logits")
    if fields.get("quantization_config"):
        raise _unsupported(directory, "its weights are quantized")
    return config


def _ropes(parameters: dict[str, Any]) -> list[str]:
    """Kinds of rotary embedding: one for the model, or one for each kind of layer."""
    if any(isinstance(value, dict) for value in parameters.values()):
        return [value.get("rope_type", "default") for value in parameters.values() if value]
    return [parameters.get("rope_type", "default")]


def _unsupported(directory: Path, why: str) -> InvalidRequest:
    return InvalidRequest(
        f"The embedded engine cannot serve the model in {directory}: {why}.",
        fix="Choose another base model, or another engine for this one.",
        code="unsupported_model",
        param="base",
    )
