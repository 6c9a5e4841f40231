"""Adapters from PEFT folders: read, checked against the base model, ready to be mixed into a batch.

Everything that would otherwise break or bend answers later is refused here, with the reason: other
methods than plain LoRA, unknown tensors or modules, shapes and ranks that do not fit, numbers that are
not finite.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson
import torch
from safetensors import SafetensorError, safe_open

from graftwork.core.errors import InvalidRequest
from graftwork.models.lora import CONFIG, MAX_RANK, WEIGHTS, NotPlainLora, Part, parts_of

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Pair:
    """The two halves at one linear module, in the engine's type, laid out for ``x @ down @ up``."""

    down: torch.Tensor
    """[in, rank]."""
    up: torch.Tensor
    """[rank, out], with the adapter's scale multiplied in."""

    @property
    def rank(self) -> int:
        """Inner dimension."""
        return self.down.shape[1]


@dataclass(frozen=True, slots=True)
class StackedPair:
    """The two halves at a stack of experts."""

    down: torch.Tensor
    """[experts, in, rank]."""
    up: torch.Tensor
    """[experts, rank, out], with the adapter's scale multiplied in."""


@dataclass(frozen=True, eq=False, slots=True)
class Adapter:
    """One loaded adapter. Immutable; lives as long as a running sequence holds it."""

    name: str
    directory: Path
    pairs: dict[str, Pair]
    """By path of the linear module, e.g. ``model.layers.0.self_attn.q_proj``."""
    stacks: dict[str, StackedPair] = field(default_factory=dict)
    """By name of the stacked parameter, e.g. ``model.layers.0.mlp.experts.down_proj``."""


@dataclass(frozen=True, slots=True)
class LinearShape:
    """Sizes of a linear module of the base model, or of one expert."""

    inputs: int
    outputs: int


@dataclass(frozen=True, slots=True)
class Adaptable:
    """What an adapter may change in the base model."""

    linears: dict[str, LinearShape]
    """Linear modules by path."""
    stacks: dict[str, tuple[int, LinearShape]] = field(default_factory=dict)
    """Stacked parameters by name: how many experts, and the sizes of one."""

    @property
    def experts(self) -> int:
        """Experts in a stack; 0 if there are none."""
        return max((count for count, _ in self.stacks.values()), default=0)


def read_adapter(
    name: str, directory: Path, base: Adaptable, dtype: torch.dtype, device: torch.device
) -> Adapter:
    """Read the adapter in ``directory``. Blocks on the disk; touches no running state.

    Raises:
        InvalidRequest: it does not fit (code ``invalid_adapter``), saying where.
    """
    config = _config(directory)
    pairs: dict[str, Pair] = {}
    stacks: dict[str, StackedPair] = {}
    try:
        with safe_open(directory / WEIGHTS, framework="pt") as file:
            names = list(file.keys())
            shapes = {key: tuple(file.get_slice(key).get_shape()) for key in names}
            for part in parts_of(config, shapes, base.experts):
                _check_shapes(directory, part, shapes, base)
                down, up = _halves(directory, part, file.get_tensor(part.down), file.get_tensor(part.up))
                if part.parameter:
                    stacks[part.target] = _stacked(part, down, up, dtype, device)
                else:
                    pairs[part.path] = Pair(_laid_out(down, dtype, device), _laid_out(up, dtype, device))
    except NotPlainLora as error:
        raise _refused(directory, str(error)) from error
    except (SafetensorError, OSError) as error:
        raise _refused(directory, f"{WEIGHTS} cannot be read ({error})") from error
    return Adapter(name, directory, pairs, stacks)


def _config(directory: Path) -> Json:
    try:
        config = orjson.loads((directory / CONFIG).read_bytes())
    except OSError as error:
        raise _refused(directory, f"{CONFIG} cannot be read ({error.strerror})") from error
    except orjson.JSONDecodeError as error:
        raise _refused(directory, f"{CONFIG} is not JSON") from error
    if not isinstance(config, dict):
        raise _refused(directory, f"{CONFIG} is no JSON object")
    if config.get("use_dora"):
        raise _refused(
            directory,
            "it uses use_dora, which changes the norm of every row and cannot share a product with others; "
            "merge it into the base model instead",
        )
    return config


def _check_shapes(directory: Path, part: Part, shapes: dict[str, tuple[int, ...]], base: Adaptable) -> None:
    if part.parameter:
        found = base.stacks.get(part.target)
        if found is None:
            raise _refused(directory, f"the base model has no stack of experts {part.target!r} to adapt")
        shape = found[1]
    elif part.path in base.linears:
        shape = base.linears[part.path]
    else:
        raise _refused(directory, f"the base model has no linear module {part.path!r} to adapt")
    down, up = shapes[part.down], shapes[part.up]
    if down[1] != shape.inputs or up[0] != shape.outputs:
        raise _refused(
            directory,
            f"{part.target} has A {list(down)} and B {list(up)}, but the base model's module needs "
            f"A [rank, {shape.inputs}] and B [{shape.outputs}, rank], rank at most {MAX_RANK}",
        )


def _halves(
    directory: Path, part: Part, down: torch.Tensor, up: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Both halves in float32, the scale multiplied into the second."""
    for tensor in (down, up):
        if not tensor.is_floating_point():
            raise _refused(directory, f"{part.target} has weights of type {tensor.dtype}")
    down, up = down.float(), up.float() * part.scale
    if not (torch.isfinite(down).all() and torch.isfinite(up).all()):
        raise _refused(directory, f"{part.target} has weights that are not finite (NaN or infinity)")
    return down, up


def _laid_out(half: torch.Tensor, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    return half.t().to(device, dtype).contiguous()


def _stacked(
    part: Part, down: torch.Tensor, up: torch.Tensor, dtype: torch.dtype, device: torch.device
) -> StackedPair:
    """A [experts x rank, in] and B [out, rank x experts] as ``x @ down @ up`` of each expert wants them."""
    downs = down.view(part.experts, part.rank, -1).transpose(1, 2)
    ups = up.view(-1, part.rank, part.experts).permute(2, 1, 0)
    return StackedPair(downs.to(device, dtype).contiguous(), ups.to(device, dtype).contiguous())


def _refused(directory: Path, why: str) -> InvalidRequest:
    return InvalidRequest(
        f"The adapter in {directory.name} cannot be served: {why}.",
        fix="Load an adapter that was trained with plain LoRA for this base model.",
        code="invalid_adapter",
        param="path",
    )
