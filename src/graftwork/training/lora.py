"""LoRA layers of PEFT in a frozen model, with all numbers of an adapter in one flat vector.

LoRA: Hu et al. 2021 (arXiv:2106.09685); scaling alpha / r, or alpha / sqrt(r) for rsLoRA, Kalajdzievski 2023
(arXiv:2312.03732). DoRA, Liu et al. 2024 (arXiv:2402.09353), adds a magnitude to each output of a module.
"""

from __future__ import annotations

import math
import warnings
from typing import Any

import torch
from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.lora import LoraLayer
from torch import nn

from graftwork.core.specs import LoraSpec
from graftwork.training.engine import Adapter, Part
from graftwork.training.targets import Targets, expert_spread, parameter_config, unknown_target

PREFIX = "base_model.model."
"""What PEFT puts before a module's name when it saves."""
MAGNITUDE = ".lora_magnitude_vector"
"""End of a name of DoRA's."""


def linear_modules(model: nn.Module, head: nn.Module) -> dict[str, nn.Linear]:
    """All linear layers of ``model`` by full name, the lm_head left out."""
    return {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and module is not head
    }


def resolve_targets(lora: LoraSpec, modules: list[str]) -> tuple[str, ...]:
    """Last names of the linear modules to adapt, sorted: what a trainer that knows no more is told.

    Raises:
        InvalidRequest: ``unknown_target``, a name that ends no linear module's name.
    """
    known = sorted({name.rpartition(".")[2] for name in modules})
    if lora.targets == "all-linear":
        return tuple(known)
    unknown = [target for target in lora.targets if target not in known]
    if unknown or not lora.targets:
        raise unknown_target(unknown, known)
    return tuple(sorted(set(lora.targets)))


def inject(model: nn.Module, name: str, lora: LoraSpec, targets: Targets) -> list[LoraLayer]:
    """Add adapter ``name`` to the targets in ``model``, in place; returns the layers that carry it."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Already found a `peft_config`")  # several adapters are the point
        # PEFT looks for a pattern's target among the modules only, and misses the parameters it then serves
        warnings.filterwarnings("ignore", "The following (rank|alpha)_pattern keys", RuntimeWarning)
        inject_adapter_in_model(lora_config(lora, targets), model, adapter_name=name)
    return layers_of(model, name)


def layers_of(model: nn.Module, name: str) -> list[LoraLayer]:
    """The layers that carry adapter ``name``."""
    return [module for module in model.modules() if isinstance(module, LoraLayer) and name in module.lora_A]


def lora_config(lora: LoraSpec, targets: Targets) -> LoraConfig:
    """PEFT's words for an adapter's shape. Beside parameters PEFT takes no dropout."""
    patterns: dict[str, Any] = {}
    if targets.parameters:
        patterns = parameter_config(targets.parameters, targets.expert_rank, lora)
        patterns.pop("lora_dropout")
    return LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,  # pyright: ignore[reportArgumentType] - PEFT says int and takes any number
        lora_dropout=0.0 if targets.parameters else lora.dropout,
        use_rslora=lora.rslora,
        use_dora=lora.dora,
        target_modules=list(targets.modules),
        bias="none",
        task_type="CAUSAL_LM",
        **patterns,
    )


def eject(model: nn.Module, name: str, layers: list[LoraLayer]) -> None:
    """Take adapter ``name`` out of its layers; the layers stay, and without an adapter are the base's."""
    for layer in layers:
        layer.set_adapter([other for other in layer.active_adapters if other != name])
        layer.delete_adapter(name)
    configs = model.peft_config
    assert isinstance(configs, dict)
    configs.pop(name)


def flatten(model: nn.Module, name: str, targets: Targets, seed: int, lora: LoraSpec) -> Adapter:
    """Move adapter ``name``'s parameters into flat fp32 vectors and draw A from ``seed``; B is zero, and a
    magnitude (DoRA) is the norm that PEFT took of the base's weight.

    A is drawn on the CPU in the order of the modules, so it is the same on every device.
    """
    found = [(full, module) for full, module in model.named_modules() if _part_of(full, name)]
    parts: list[Part] = []
    offset = 0
    for full, module in found:
        weight = module.weight
        assert isinstance(weight, nn.Parameter)
        short = f"{PREFIX}{full.removesuffix('.' + name)}"
        short += "" if short.endswith(MAGNITUDE) else ".weight"  # as PEFT saves it
        parts.append(Part(short, offset, tuple(weight.shape)))
        offset += weight.numel()
    device = next(iter(model.parameters())).device
    weights = torch.zeros(offset, dtype=torch.float32, device=device)
    adapter = Adapter(
        name,
        weights,
        torch.zeros_like(weights),
        tuple(parts),
        targets.modules,
        targets.parameters,
        targets.expert_rank,
    )
    stacked = tuple(
        f"{PREFIX}{stack}{inner}.lora_A.weight" for stack in targets.stacks for inner in ("", ".base_layer")
    )
    generator = torch.Generator().manual_seed(seed)
    values, slopes = adapter.tensors(), adapter.tensors(adapter.grad)
    for part, (_, module) in zip(parts, found, strict=True):
        if part.name.endswith(".lora_A.weight"):
            drawn = torch.empty(part.shape)
            nn.init.kaiming_uniform_(drawn, a=math.sqrt(5), generator=generator)
            if targets.expert_rank and part.name.endswith(stacked):
                drawn *= expert_spread(lora, targets.expert_rank)
            values[part.name].copy_(drawn)
        elif part.name.endswith(MAGNITUDE):
            values[part.name].copy_(module.weight.detach())  # pyright: ignore[reportArgumentType, reportCallIssue]
        module.weight = nn.Parameter(values[part.name])
        module.weight.grad = slopes[part.name]
    return adapter


def _part_of(full: str, name: str) -> bool:
    return full.endswith((f".lora_A.{name}", f".lora_B.{name}", f"{MAGNITUDE}.{name}"))
