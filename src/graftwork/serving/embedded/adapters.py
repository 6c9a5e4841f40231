"""Adapters from PEFT folders: read, checked against the base model, ready to be mixed into a batch.

Everything that would otherwise break or bend answers later is refused here, with the reason: other
methods than plain LoRA, unknown tensors or modules, shapes and ranks that do not fit, numbers that are
not finite.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
import torch
from safetensors import SafetensorError, safe_open

from graftwork.core.errors import InvalidRequest

Json = dict[str, Any]

MAX_RANK = 512
CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
_KEY = re.compile(r"^base_model\.model\.(?P<path>.+)\.lora_(?P<half>[AB])\.weight$")

_MUST_BE_OFF = (
    "use_dora",
    "fan_in_fan_out",
    "modules_to_save",
    "rank_pattern",
    "alpha_pattern",
    "layer_replication",
    "trainable_token_indices",
    "target_parameters",
    "lora_bias",
    "use_qalora",
    "use_bdlora",
    "alora_invocation_tokens",
    "arrow_config",
    "kasa_config",
    "velora_config",
    "monteclora_config",
)
"""Fields of PEFT's LoraConfig whose effect is more than ``x + B(A(x)) * scale``."""
_PLAIN_START = (None, True, False, "gaussian", "orthogonal", "eva")
"""Ways to initialise LoRA that leave the base weights alone."""


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


@dataclass(frozen=True, eq=False, slots=True)
class Adapter:
    """One loaded adapter. Immutable; lives as long as a running sequence holds it."""

    name: str
    directory: Path
    pairs: dict[str, Pair]
    """By path of the linear module, e.g. ``model.layers.0.self_attn.q_proj``."""


@dataclass(frozen=True, slots=True)
class LinearShape:
    """Sizes of a linear module of the base model."""

    inputs: int
    outputs: int


def read_adapter(
    name: str,
    directory: Path,
    linears: dict[str, LinearShape],
    dtype: torch.dtype,
    device: torch.device,
) -> Adapter:
    """Read the adapter in ``directory``. Blocks on the disk; touches no running state.

    Args:
        linears: the base model's linear modules an adapter may change, by path.

    Raises:
        InvalidRequest: it does not fit (code ``invalid_adapter``), saying where.
    """
    scale = _scale(_config(directory))
    halves = _halves(directory, linears)
    pairs: dict[str, Pair] = {}
    for path, found in halves.items():
        if set(found) != {"A", "B"}:
            raise _refused(directory, f"{path} has lora_{''.join(found)} but not its other half")
        down, up = found["A"], found["B"]
        _check_shapes(directory, path, down, up, linears[path])
        up = up.float() * scale
        if not (torch.isfinite(down).all() and torch.isfinite(up).all()):
            raise _refused(directory, f"{path} has weights that are not finite (NaN or infinity)")
        pairs[path] = Pair(down.t().to(device, dtype).contiguous(), up.t().to(device, dtype).contiguous())
    if not pairs:
        raise _refused(directory, "it holds no weights")
    return Adapter(name, directory, pairs)


def _config(directory: Path) -> Json:
    try:
        config = orjson.loads((directory / CONFIG).read_bytes())
    except OSError as error:
        raise _refused(directory, f"{CONFIG} cannot be read ({error.strerror})") from error
    except orjson.JSONDecodeError as error:
        raise _refused(directory, f"{CONFIG} is not JSON") from error
    if not isinstance(config, dict) or config.get("peft_type") != "LORA":
        raise _refused(directory, f"{CONFIG} does not say peft_type LORA")
    for field in _MUST_BE_OFF:
        if config.get(field):
            raise _refused(directory, f"it uses {field}, which this engine does not serve")
    if config.get("bias", "none") != "none":
        raise _refused(directory, f"it trains biases (bias={config['bias']!r})")
    if config.get("init_lora_weights") not in _PLAIN_START:
        raise _refused(
            directory, f"its base weights were changed by init_lora_weights={config['init_lora_weights']!r}"
        )
    return config


def _scale(config: Json) -> float:
    rank, alpha = config.get("r"), config.get("lora_alpha")
    if not isinstance(rank, int) or isinstance(rank, bool) or not 1 <= rank <= MAX_RANK:
        raise InvalidRequest(
            f"The adapter's rank is {rank!r}; this engine serves ranks 1 to {MAX_RANK}.",
            fix="Train with a smaller rank.",
            code="invalid_adapter",
            param="path",
        )
    if not isinstance(alpha, int | float) or not math.isfinite(alpha):
        raise InvalidRequest(
            f"The adapter's lora_alpha is {alpha!r}, not a number.", code="invalid_adapter", param="path"
        )
    return alpha / math.sqrt(rank) if config.get("use_rslora") else alpha / rank


def _halves(directory: Path, linears: dict[str, LinearShape]) -> dict[str, dict[str, torch.Tensor]]:
    halves: dict[str, dict[str, torch.Tensor]] = {}
    try:
        with safe_open(directory / WEIGHTS, framework="pt") as file:
            for key in file.keys():  # noqa: SIM118 - safe_open is no mapping
                match = _KEY.match(key)
                if match is None:
                    raise _refused(directory, f"it holds {key!r}, which is not a LoRA weight")
                path = match["path"]
                if path not in linears:
                    raise _refused(directory, f"the base model has no linear module {path!r} to adapt")
                halves.setdefault(path, {})[match["half"]] = file.get_tensor(key)
    except (SafetensorError, OSError) as error:
        raise _refused(directory, f"{WEIGHTS} cannot be read ({error})") from error
    return halves


def _check_shapes(
    directory: Path, path: str, down: torch.Tensor, up: torch.Tensor, linear: LinearShape
) -> None:
    for tensor in (down, up):
        if not tensor.is_floating_point():
            raise _refused(directory, f"{path} has weights of type {tensor.dtype}")
    fits = (
        down.ndim == 2
        and up.ndim == 2
        and down.shape[1] == linear.inputs
        and up.shape[0] == linear.outputs
        and down.shape[0] == up.shape[1]
        and 1 <= down.shape[0] <= MAX_RANK
    )
    if not fits:
        raise _refused(
            directory,
            f"{path} has A {list(down.shape)} and B {list(up.shape)}, but the base model's module needs "
            f"A [rank, {linear.inputs}] and B [{linear.outputs}, rank], rank at most {MAX_RANK}",
        )


def _refused(directory: Path, why: str) -> InvalidRequest:
    return InvalidRequest(
        f"The adapter in {directory.name} cannot be served: {why}.",
        fix="Load an adapter that was trained with plain LoRA for this base model.",
        code="invalid_adapter",
        param="path",
    )
