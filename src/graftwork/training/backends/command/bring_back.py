"""A tool's adapter as one of ours: the right tensors, finite, fp32, under a minimal config."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from graftwork.core.errors import TrainingError
from graftwork.core.specs import BaseRef, LoraSpec
from graftwork.training.export import CONFIG, WEIGHTS, peft_config


def bring_back(source: Path, target: Path, lora: LoraSpec, base: BaseRef, targets: tuple[str, ...]) -> None:
    """Read the adapter in ``source``, check it, and write it to ``target`` as the native trainer would.

    Raises:
        TrainingError: ``adapter_missing``, ``adapter_not_finite``, or ``adapter_differs``: it is not the
            adapter that was asked for.
    """
    config, tensors = _read(source)
    _check_config(config, lora)
    plain = {_plain(name): tensor.to(torch.float32).contiguous() for name, tensor in tensors.items()}
    _check_tensors(plain, lora, targets)
    target.mkdir(parents=True, exist_ok=True)
    save_file(dict(sorted(plain.items())), target / WEIGHTS, metadata={"format": "pt"})
    (target / CONFIG).write_text(json.dumps(peft_config(targets, lora, base), indent=2) + "\n")


def _read(source: Path) -> tuple[Mapping[str, object], dict[str, torch.Tensor]]:
    try:
        config = json.loads((source / CONFIG).read_text())
        return config, load_file(source / WEIGHTS)
    except (OSError, ValueError, SafetensorError) as error:
        raise TrainingError(
            f"The trainer left no adapter that can be read: {error}.",
            fix="See the run's log; it can be tried again.",
            code="adapter_missing",
        ) from error


def _check_config(config: Mapping[str, object], lora: LoraSpec) -> None:
    wanted = {"r": lora.rank, "lora_alpha": lora.alpha, "use_rslora": lora.rslora, "use_dora": lora.dora}
    defaults = {"use_rslora": False, "use_dora": False}
    for name, value in wanted.items():
        found = config.get(name, defaults.get(name))
        if found != value:
            raise differs(f"its {name} is {found}, not {value}")
    for name in ("modules_to_save", "rank_pattern", "alpha_pattern"):
        if config.get(name):
            raise differs(f"it has {name}")


def _check_tensors(tensors: Mapping[str, torch.Tensor], lora: LoraSpec, targets: tuple[str, ...]) -> None:
    seen: set[str] = set()
    for name, tensor in tensors.items():
        module, _, kind = name.rpartition(".lora_")
        seen.add(module.rpartition(".")[2])
        rank = {"A.weight": 0, "B.weight": 1}.get(kind)
        if rank is not None and (tensor.dim() != 2 or tensor.shape[rank] != lora.rank):
            raise differs(f"{name} has the shape {tuple(tensor.shape)}")
        if rank is None and kind != "magnitude_vector":
            raise differs(f"it has a tensor {name}")
        if not torch.isfinite(tensor).all():
            raise TrainingError(
                "The adapter has weights that are not numbers.",
                fix="Lower the learning_rate_multiplier.",
                code="adapter_not_finite",
            )
    if seen != set(targets):
        raise differs(f"it adapts {', '.join(sorted(seen)) or 'nothing'}, not {', '.join(sorted(targets))}")


def _plain(name: str) -> str:
    """A tensor's name as PEFT saves it; some tools leave the adapter's name in, or wrappers of theirs."""
    for part in (".default", "._orig_mod", "._checkpoint_wrapped_module", ".module"):
        name = name.replace(part, "")
    return name


def differs(what: str) -> TrainingError:
    """The error of an adapter that is not as asked for, and ``what`` is not."""
    return TrainingError(
        f"The adapter that came back is not the one asked for: {what}.",
        fix="The trainer's version may not fit; docs/trainers.md names those that were tried.",
        code="adapter_differs",
    )
