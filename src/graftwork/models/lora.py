"""What the files of a LoRA adapter mean: which weights of the base change, by which halves, at which scale.

PEFT's format (0.19 to 0.21). A linear module at ``path`` has ``base_model.model.<path>.lora_A.weight``
[rank, in] and ``lora_B.weight`` [out, rank]. Experts are stacked parameters of one module, named in
``target_parameters``; their wrappers nest, the parameter declared first innermost, so the first of two has
``<path>.base_layer.lora_A.weight`` and the last ``<path>.lora_A.weight``; A is [experts x rank, in], expert
by expert, and B is [out, rank x experts], rank by rank (``peft.tuners.lora.layer.ParamWrapper``).
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
MAX_RANK = 512
EXPERT_PARAMETERS = ("gate_up_proj", "down_proj")
"""Stacked parameters of a module of experts, in the order of their declaration."""

_KEY = re.compile(
    r"base_model\.model\.(?P<path>.+?)(?P<inner>(?:\.base_layer)*)\.lora_"
    r"(?P<half>A\.weight|B\.weight|magnitude_vector(?:\.weight)?)"
)
_NAME = re.compile(r"[A-Za-z0-9_.]+")
_MUST_BE_OFF = (
    "fan_in_fan_out",
    "modules_to_save",
    "layer_replication",
    "trainable_token_indices",
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


class NotPlainLora(Exception):
    """The adapter is nothing we can compute with; the text says why, as the end of a sentence."""


@dataclass(frozen=True, slots=True)
class Part:
    """One weight that changes: names of the halves' tensors, and what to multiply their product by.

    Attributes:
        path: the module, e.g. ``model.layers.0.self_attn.q_proj``.
        parameter: name of the stacked parameter of ``path``; empty for a linear module.
        rank: inner dimension (of each expert).
        experts: how many experts A and B hold; 1 for a linear module.
        magnitude: DoRA's vector [out], if there is one.
    """

    path: str
    parameter: str
    rank: int
    scale: float
    down: str
    up: str
    experts: int = 1
    magnitude: str | None = None

    @property
    def target(self) -> str:
        """What changes, in one word."""
        return f"{self.path}.{self.parameter}" if self.parameter else self.path


def parts_of(
    config: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]], experts: int = 0
) -> tuple[Part, ...]:
    """The parts of an adapter.

    Args:
        config: its ``adapter_config.json``.
        shapes: shapes of its tensors, by name.
        experts: how many experts the base has in a stack; 0 if it has none.

    Raises:
        NotPlainLora: it does something else, or does not fit together.
    """
    check_config(config)
    found: dict[tuple[str, int], dict[str, str]] = {}
    for name in shapes:
        match = _KEY.fullmatch(name)
        if match is None:
            raise NotPlainLora(f"it holds {name!r}, which is not a LoRA weight")
        depth = match["inner"].count(".base_layer")
        found.setdefault((match["path"], depth), {})[match["half"][0]] = name
    if not found:
        raise NotPlainLora("it holds no weights")
    stacked = _stacked(config.get("target_parameters") or (), {path for path, _ in found})
    parts: list[Part] = []
    for (path, depth), halves in sorted(found.items()):
        names = stacked.get(path, ("",))
        if depth >= len(names):
            raise NotPlainLora(f"{path} is wrapped more often than target_parameters say")
        parts.append(_part(config, shapes, path, names[len(names) - 1 - depth], halves, experts))
    return tuple(parts)


def check_config(config: Mapping[str, Any]) -> None:
    """Refuse what is not LoRA, rsLoRA or DoRA.

    Raises:
        NotPlainLora: saying which field.
    """
    if config.get("peft_type") != "LORA":
        raise NotPlainLora(f"{CONFIG} does not say peft_type LORA")
    for field in _MUST_BE_OFF:
        if config.get(field):
            raise NotPlainLora(f"it uses {field}, which is more than LoRA")
    if config.get("bias", "none") != "none":
        raise NotPlainLora(f"it trains biases (bias={config['bias']!r})")
    if config.get("init_lora_weights") not in _PLAIN_START:
        raise NotPlainLora(
            f"its base weights were changed by init_lora_weights={config['init_lora_weights']!r}"
        )


def _stacked(targets: Iterable[str], paths: set[str]) -> dict[str, tuple[str, ...]]:
    """Names of the stacked parameters that change, of each module of experts, innermost first.

    A parameter that is no stack (``shared_expert.up_proj.weight``) is a matrix like any linear module's.
    """
    wanted = tuple(targets)

    def names(path: str) -> tuple[str, ...]:
        full = {parameter: f"{path}.{parameter}" for parameter in EXPERT_PARAMETERS}
        return tuple(
            p for p in EXPERT_PARAMETERS if any(full[p] == t or full[p].endswith(f".{t}") for t in wanted)
        )

    return {path: found for path in paths if path.endswith(".experts") and (found := names(path))}


def _part(
    config: Mapping[str, Any],
    shapes: Mapping[str, tuple[int, ...]],
    path: str,
    parameter: str,
    halves: dict[str, str],
    experts: int,
) -> Part:
    if not {"A", "B"} <= set(halves):
        raise NotPlainLora(f"{path} has lora_{''.join(sorted(halves))} but not its other half")
    target = f"{path}.{parameter}" if parameter else path
    down, up = shapes[halves["A"]], shapes[halves["B"]]
    if len(down) != 2 or len(up) != 2 or down[0] != up[1]:
        raise NotPlainLora(f"{target} has A {list(down)} and B {list(up)}, which do not fit together")
    count = experts if parameter else 1
    if not count or down[0] % count:
        raise NotPlainLora(f"{target} has A {list(down)}, which is not a rank for each of {count} experts")
    rank = down[0] // count
    if not 1 <= rank <= MAX_RANK:
        raise NotPlainLora(f"{target} has rank {rank}; ranks from 1 to {MAX_RANK} are served")
    return Part(
        path=path,
        parameter=parameter,
        rank=rank,
        scale=_scale(config, target, rank),
        down=halves["A"],
        up=halves["B"],
        experts=count,
        magnitude=_magnitude(config, shapes, target, halves.get("m"), up[0]),
    )


def _scale(config: Mapping[str, Any], target: str, rank: int) -> float:
    """alpha / rank, or alpha / sqrt(rank) for rsLoRA (Kalajdzievski 2023, arXiv:2312.03732)."""
    said = _by_pattern(config.get("rank_pattern") or {}, target, config.get("r"))
    if not isinstance(said, int) or isinstance(said, bool) or not 1 <= said <= MAX_RANK:
        raise NotPlainLora(f"its rank is {said!r}; ranks from 1 to {MAX_RANK} are served")
    if said != rank:
        raise NotPlainLora(f"{target} has rank {rank}, but {CONFIG} says {said}")
    alpha = _by_pattern(config.get("alpha_pattern") or {}, target, config.get("lora_alpha"))
    if not isinstance(alpha, int | float) or isinstance(alpha, bool) or not math.isfinite(alpha):
        raise NotPlainLora(f"its lora_alpha is {alpha!r}, not a number")
    return alpha / math.sqrt(rank) if config.get("use_rslora") else alpha / rank


def _by_pattern(patterns: Mapping[str, Any], target: str, usual: Any) -> Any:
    """PEFT's rule: the first key that is the end of the target's name, from a dot on.

    PEFT takes keys for regular expressions; here they are names, since an adapter is a stranger's file.
    """
    for pattern, value in patterns.items():
        name = pattern.removeprefix("^").removeprefix(r".*\.").removesuffix("$").replace(r"\.", ".")
        if not _NAME.fullmatch(name):
            raise NotPlainLora(f"its rank or alpha pattern {pattern!r} is not a module's name")
        if any(full == name or full.endswith(f".{name}") for full in (target, f"{target}.weight")):
            return value
    return usual


def _magnitude(
    config: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]], target: str, name: str | None, out: int
) -> str | None:
    if bool(config.get("use_dora")) != (name is not None):
        raise NotPlainLora(f"{target} has {'no' if name is None else 'a'} DoRA magnitude, against {CONFIG}")
    if name is not None and shapes[name] != (out,):
        raise NotPlainLora(f"{target} has a magnitude of shape {list(shapes[name])}, not [{out}]")
    return name
