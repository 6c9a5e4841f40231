"""Put a model's frozen weights into 4 bits: while transformers reads them, or in a model that is there.

Read from a folder, a weight is packed as soon as it is on the device, before the next is read: the model is
never there unpacked. bitsandbytes' own way through transformers packs linear modules alone; here stacks of
experts, most of a mixture's weights, are packed like them.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.core_model_loading import ConversionOps
from transformers.quantizers.auto import register_quantization_config, register_quantizer
from transformers.quantizers.base import HfQuantizer
from transformers.utils.quantization_config import QuantizationConfigMixin

from graftwork.training.nf4 import Nf4, Nf4Linear, held, hold, require
from graftwork.training.targets import STACKS, Inventory

NAME = "graftwork_nf4"


def pack_(model: PreTrainedModel) -> PreTrainedModel:
    """Pack the weights of a model that is loaded already, in place."""
    for name, module in chosen(model):
        if isinstance(module, nn.Linear):
            _replace(model, name, Nf4Linear(Nf4.pack(module.weight), module.bias))
        else:
            for stack in STACKS:
                hold(module, stack, Nf4.pack(module.get_parameter(stack)))
    return model


def chosen(model: PreTrainedModel) -> list[tuple[str, nn.Module]]:
    """What is packed, by name: all that adapters may change, so not the lm_head, nor a router."""
    head = model.get_output_embeddings()
    assert head is not None  # a causal language model has one
    found = Inventory.of(model, model.get_decoder(), head)
    return [(name, model.get_submodule(name)) for name in (*found.linears, *found.stacks)]


def quantized_bytes(model: nn.Module) -> tuple[int, int]:
    """Weights that are packed, and the bytes they take, scales included."""
    packed = [module.packed for module in model.modules() if isinstance(module, Nf4Linear)]
    packed += [one for module in model.modules() for stack in STACKS if (one := held(module, stack))]
    return sum(one.shape.numel() for one in packed), sum(one.bytes for one in packed)


class Nf4Config(QuantizationConfigMixin):
    """Says to ``from_pretrained``: pack what you read. ``dtype``: what packed weights are read as."""

    def __init__(self, dtype: torch.dtype = torch.float32) -> None:
        self.quant_method = NAME  # pyright: ignore[reportAttributeAccessIssue] - one of our own
        self.dtype = dtype


class Nf4Quantizer(HfQuantizer):
    """What ``from_pretrained`` asks, and how it is answered."""

    requires_calibration = False

    def __init__(self, quantization_config: Nf4Config, **options: Any) -> None:
        super().__init__(quantization_config, **options)
        self.dtype = quantization_config.dtype
        self.packed: dict[str, Nf4] = {}
        self._wanted: frozenset[str] = frozenset()

    @property
    def quantized_element_size(self) -> float:
        """Bytes of a packed weight."""
        return 0.52

    def is_serializable(self) -> bool:
        """Nothing is saved of a frozen base."""
        return False

    @property
    def is_trainable(self) -> bool:
        """Adapters on it are."""
        return True

    def param_needs_quantization(self, model: PreTrainedModel, param_name: str, **_: Any) -> bool:
        """Whether a parameter, by its full name, is one to pack."""
        return param_name in self._wanted

    def get_quantize_ops(self) -> ConversionOps:
        """What packs."""
        return _Pack(self)

    def _process_model_before_weight_loading(self, model: PreTrainedModel, **_: Any) -> None:
        self._wanted = frozenset(
            f"{name}.{weight}"
            for name, module in chosen(model)
            for weight in (("weight",) if isinstance(module, nn.Linear) else STACKS)
        )

    def _process_model_after_weight_loading(self, model: PreTrainedModel, **_: Any) -> PreTrainedModel:
        for full, packed in self.packed.items():
            name, stack = full.rsplit(".", 1)
            module = model.get_submodule(name)
            if isinstance(module, nn.Linear):
                _replace(model, name, Nf4Linear(packed, module.bias))
            else:
                hold(module, stack, packed)
        self.packed.clear()
        return model


register_quantization_config(NAME)(Nf4Config)
register_quantizer(NAME)(Nf4Quantizer)


class _Pack(ConversionOps):
    def __init__(self, quantizer: Nf4Quantizer) -> None:
        self._quantizer = quantizer

    def convert(self, input_dict: dict[str, Any], **_: Any) -> dict[str, torch.Tensor]:
        """Pack each tensor; its place in the module is taken by the packed values until all are read."""
        placed: dict[str, torch.Tensor] = {}
        for name, value in input_dict.items():
            packed = Nf4.pack(value[0] if isinstance(value, list) else value, self._quantizer.dtype)
            self._quantizer.packed[name] = packed
            placed[name] = nn.Parameter(packed.pieces[0][0], requires_grad=False)
        return placed


def while_reading(device: torch.device, dtype: torch.dtype) -> dict[str, Any]:
    """Arguments by which ``from_pretrained`` packs what it reads, for products in ``dtype``.

    Raises:
        PlatformError: ``quantization_unavailable``.
    """
    require()
    return {"quantization_config": Nf4Config(dtype), "device_map": {"": device}}


def _replace(model: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, last = name.rpartition(".")
    model.get_submodule(parent).register_module(last, module)
