"""Is this folder a LoRA adapter that every engine may load? All problems at once, without torch.

Engines disagree about what else they would read (pickles, biases, other methods), and one adapter with a NaN
or a wrong shape can take down an engine that serves many: so nothing is registered that is not exactly two
files, of which every key, name, shape and number is accounted for.
"""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np

from graftwork.core.errors import InvalidData
from graftwork.registry.safetensors import Malformed, Tensor, read_header, read_json

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
MAX_RANK = 512
MAX_BYTES = 4 << 30

_NAME = re.compile(r"[A-Za-z0-9_.]{1,512}")
_KEY = re.compile(r"base_model\.model\.((?:[A-Za-z0-9_]+\.)+)lora_([AB])\.weight")
_MODULE = re.compile(r"[A-Za-z0-9_]+")
_PARAMETER = re.compile(r"[A-Za-z0-9_]+(?:\.[A-Za-z0-9_]+)+")
_STACKS = {"experts.base_layer": "experts.gate_up_proj", "experts": "experts.down_proj"}
"""The parameter of a module of experts that lies under the end of a tensor's path: PEFT wraps the module once
for each parameter, the last one outermost."""
_INFINITE = {
    "F32": (np.dtype("<u4"), 0x7F800000),
    "F16": (np.dtype("<u2"), 0x7C00),
    "BF16": (np.dtype("<u2"), 0x7F80),
}
"""The bits of a type's exponent: all of them set mean NaN or an infinity."""


Shapes = Mapping[str, tuple[tuple[int, int, int], ...]]
"""Possible (inputs, outputs, experts) by a module's last name: ``q_proj``, of one expert, ``experts`` (down)
and ``experts.base_layer`` (gate and up) of many."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One reason why files are no adapter of ours."""

    file: str
    code: str
    message: str


def check_adapter(files: Mapping[str, bytes] | Path, *, shapes: Shapes | None = None) -> list[Problem]:
    """What is wrong with the files of an adapter; nothing if it may be served.

    Args:
        files: contents by name, or the folder that holds them.
        shapes: of the base model's matrices; without it only the adapter's own consistency is checked.
    """
    contents, problems = _contents(files)
    if sum(map(len, contents.values())) > MAX_BYTES:
        return [*problems, Problem(WEIGHTS, "too_large", f"The adapter is larger than {MAX_BYTES} bytes.")]
    for name in sorted(contents.keys() - {CONFIG, WEIGHTS}):
        problems.append(Problem(name, "extra_file", f"The file {name!r} does not belong to an adapter."))
    for name in (CONFIG, WEIGHTS):
        if name not in contents:
            problems.append(Problem(name, "missing_file", f"The file {name} is missing."))
    config = _config(contents[CONFIG], problems) if CONFIG in contents else None
    if WEIGHTS in contents:
        _weights(contents[WEIGHTS], config, shapes, problems)
    return problems


def require_adapter(files: Mapping[str, bytes] | Path, *, shapes: Shapes | None = None) -> None:
    """``check_adapter``, as an error.

    Raises:
        InvalidData: the files are no adapter (code ``invalid_adapter``); ``details["problems"]`` has all.
    """
    problems = check_adapter(files, shapes=shapes)
    if problems:
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        raise InvalidData(
            f"The files are not an adapter: {problems[0].message}{more}",
            code="invalid_adapter",
            fix="Export it again with PEFT as plain LoRA in safetensors.",
            details={"problems": [{"file": p.file, "code": p.code, "message": p.message} for p in problems]},
        )


def _contents(files: Mapping[str, bytes] | Path) -> tuple[dict[str, bytes], list[Problem]]:
    if not isinstance(files, Path):
        return dict(files), []
    contents: dict[str, bytes] = {}
    problems: list[Problem] = []
    for path in sorted(files.iterdir()):
        if path.is_symlink() or not path.is_file():
            problems.append(Problem(path.name, "extra_file", f"{path.name!r} is not a plain file."))
        elif path.name in {CONFIG, WEIGHTS}:
            contents[path.name] = path.read_bytes()
        else:
            contents[path.name] = b""
    return contents, problems


def _is_number(value: Any) -> bool:
    return type(value) in {int, float} and math.isfinite(value)


def _are_modules(value: Any) -> bool:
    names = cast("list[object]", value) if isinstance(value, list) else [None]
    return all(isinstance(name, str) and _MODULE.fullmatch(name) for name in names)


def _are_parameters(value: Any) -> bool:
    names = cast("list[object]", value) if isinstance(value, list) else [None]
    return all(isinstance(name, str) and _PARAMETER.fullmatch(name) for name in names)


def _is_pattern(value: Any, fits: Callable[[Any], bool]) -> bool:
    entries = cast("dict[str, object]", value) if isinstance(value, dict) else {"": None}
    return all(_PARAMETER.fullmatch(name) and fits(number) for name, number in entries.items())


def _is_rank(value: Any) -> bool:
    return type(value) is int and 1 <= value <= MAX_RANK


_CONFIG_KEYS: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "peft_type": ("LORA", lambda v: v == "LORA"),
    "task_type": ("CAUSAL_LM", lambda v: v == "CAUSAL_LM"),
    "r": (f"a whole number from 1 to {MAX_RANK}", _is_rank),
    "lora_alpha": ("a positive number", lambda v: _is_number(v) and v > 0),
    "lora_dropout": ("a number from 0 to below 1", lambda v: _is_number(v) and 0 <= v < 1),
    "target_modules": ("a list of module names", _are_modules),
    "target_parameters": ("a list of parameter names", _are_parameters),
    "rank_pattern": ("ranks by parameter name", lambda v: _is_pattern(v, _is_rank)),
    "alpha_pattern": (
        "alphas by parameter name",
        lambda v: _is_pattern(v, lambda n: _is_number(n) and n > 0),
    ),
    "bias": ('"none"', lambda v: v == "none"),
    "use_rslora": ("true or false", lambda v: type(v) is bool),
    "inference_mode": ("true or false", lambda v: type(v) is bool),
    "base_model_name_or_path": ("text", lambda v: v is None or isinstance(v, str)),
    "revision": ("text", lambda v: v is None or isinstance(v, str)),
}
"""The keys a minimal ``adapter_config.json`` may hold, what each must be, and how that is checked."""
_REQUIRED = ("peft_type", "r", "lora_alpha", "target_modules")


def _config(data: bytes, problems: list[Problem]) -> dict[str, Any] | None:
    """The configuration, if it is one without problems."""

    def note(code: str, message: str) -> None:
        problems.append(Problem(CONFIG, code, message))

    before = len(problems)
    try:
        config = read_json(data)
    except Malformed as error:
        note("malformed", f"{CONFIG} cannot be read: {error}.")
        return None
    if not isinstance(config, dict):
        note("malformed", f"{CONFIG} is not a JSON object.")
        return None
    fields = cast("dict[str, Any]", config)
    for key in _REQUIRED:
        if key not in fields:
            note("config_key_missing", f"{CONFIG} lacks {key}.")
    for key, value in fields.items():
        if key not in _CONFIG_KEYS:
            note("config_key_unknown", f"{CONFIG} has {key!r}, which we do not serve.")
        elif not _CONFIG_KEYS[key][1](value):
            note("config_value", f"{key} in {CONFIG} must be {_CONFIG_KEYS[key][0]}.")
    if fields.get("target_modules") == [] and not fields.get("target_parameters"):
        note("config_value", f"{CONFIG} names no targets.")
    return fields if len(problems) == before else None


def _weights(
    data: bytes,
    config: dict[str, Any] | None,
    shapes: Shapes | None,
    problems: list[Problem],
) -> None:
    def note(code: str, message: str) -> None:
        problems.append(Problem(WEIGHTS, code, message))

    try:
        tensors = read_header(data)
    except Malformed as error:
        note("malformed", f"{WEIGHTS} cannot be read: {error}.")
        return
    halves: dict[str, dict[str, Tensor]] = defaultdict(dict)
    for name, tensor in tensors.items():
        match = _KEY.fullmatch(name) if _NAME.fullmatch(name) else None
        if match is None:
            note("tensor_name", f"The tensor {name[:200]!r} is not a LoRA weight of a linear module.")
            continue
        halves[match[1].rstrip(".")][match[2]] = tensor
        if not _finite(data, tensor):
            note("not_finite", f"The tensor {name!r} holds NaN or an infinity.")
    if not tensors:
        note("empty", f"{WEIGHTS} holds no tensors.")
    for path, pair in halves.items():
        for message in _pair_problems(pair, path, config, shapes):
            note("tensor_shape", f"{path}: {message}")
    if config is not None and halves:
        named = [*config["target_modules"], *config.get("target_parameters", ())]
        unused = set(named) - {_target(path, config) for path in halves}
        if unused or not named:
            note("target_unused", f"No weights are there for the targets {sorted(unused)}.")


def _module(path: str) -> str:
    """The end of a tensor's path that says which matrix it is for."""
    return next((end for end in _STACKS if f".{path}".endswith(f".{end}")), path.rpartition(".")[2])


def _target(path: str, config: dict[str, Any]) -> str | None:
    """The configuration's word for what lies at ``path``; None if it has none."""
    module = _module(path)
    parameter = f"{path.removesuffix(module)}{_STACKS[module]}" if module in _STACKS else f"{path}.weight"
    for name in config.get("target_parameters", ()):
        if f".{parameter}".endswith(f".{name}"):
            return name
    return module if module in config["target_modules"] else None


def _pair_problems(
    pair: dict[str, Tensor], path: str, config: dict[str, Any] | None, shapes: Shapes | None
) -> list[str]:
    """What is wrong with the two halves at one module: A is [rank, inputs], B is [outputs, rank].

    Of stacked experts the rank is that of all of them together.
    """
    if set(pair) != {"A", "B"}:
        return [f"only half of the pair is there (lora_{''.join(pair)})"]
    down, up = pair["A"], pair["B"]
    if len(down.shape) != 2 or len(up.shape) != 2 or down.shape[0] != up.shape[1]:
        return [f"lora_A {list(down.shape)} and lora_B {list(up.shape)} do not fit together"]
    problems: list[str] = []
    if down.dtype != up.dtype:
        problems.append(f"lora_A is {down.dtype} and lora_B is {up.dtype}")
    copies = 1
    if shapes is not None:
        known = shapes.get(_module(path), ())
        fitting = [one for one in known if one[:2] == (down.shape[1], up.shape[0])]
        copies = fitting[0][2] if fitting else 0
        if not fitting:
            have = " or ".join(str(one[:2]) for one in known) or "no such module"
            problems.append(f"it maps {down.shape[1]} to {up.shape[0]}, the base model has {have}")
    if config is not None:
        target = _target(path, config)
        rank = config.get("rank_pattern", {}).get(target, config["r"])
        if target is None:
            problems.append("it is not among the targets")
        exact = shapes is not None or _module(path) not in _STACKS
        if (copies and exact and down.shape[0] != rank * copies) or down.shape[0] % rank:
            problems.append(f"its rank is {down.shape[0]}, the configuration says {rank * max(copies, 1)}")
    return problems


def _finite(data: bytes, tensor: Tensor) -> bool:
    kind, mask = _INFINITE[tensor.dtype]
    count = (tensor.end - tensor.start) // kind.itemsize
    bits = np.frombuffer(data, dtype=kind, count=count, offset=tensor.start)
    return not bool(((bits & mask) == mask).any())
