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
_INFINITE = {
    "F32": (np.dtype("<u4"), 0x7F800000),
    "F16": (np.dtype("<u2"), 0x7C00),
    "BF16": (np.dtype("<u2"), 0x7F80),
}
"""The bits of a type's exponent: all of them set mean NaN or an infinity."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One reason why files are no adapter of ours."""

    file: str
    code: str
    message: str


def check_adapter(
    files: Mapping[str, bytes] | Path, *, shapes: Mapping[str, tuple[int, int]] | None = None
) -> list[Problem]:
    """What is wrong with the files of an adapter; nothing if it may be served.

    Args:
        files: contents by name, or the folder that holds them.
        shapes: (inputs, outputs) of the base model's linear modules by their last name (``q_proj``); without
            it only the adapter's own consistency is checked.
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


def require_adapter(
    files: Mapping[str, bytes] | Path, *, shapes: Mapping[str, tuple[int, int]] | None = None
) -> None:
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
    names = cast("list[object]", value) if isinstance(value, list) else []
    return bool(names) and all(isinstance(name, str) and _MODULE.fullmatch(name) for name in names)


_CONFIG_KEYS: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "peft_type": ("LORA", lambda v: v == "LORA"),
    "task_type": ("CAUSAL_LM", lambda v: v == "CAUSAL_LM"),
    "r": (f"a whole number from 1 to {MAX_RANK}", lambda v: type(v) is int and 1 <= v <= MAX_RANK),
    "lora_alpha": ("a positive number", lambda v: _is_number(v) and v > 0),
    "lora_dropout": ("a number from 0 to below 1", lambda v: _is_number(v) and 0 <= v < 1),
    "target_modules": ("a list of module names", _are_modules),
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
    return fields if len(problems) == before else None


def _weights(
    data: bytes,
    config: dict[str, Any] | None,
    shapes: Mapping[str, tuple[int, int]] | None,
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
        for message in _pair_problems(pair, path.rpartition(".")[2], config, shapes):
            note("tensor_shape", f"{path}: {message}")
    if config is not None and halves:
        unused = set(config["target_modules"]) - {path.rpartition(".")[2] for path in halves}
        if unused:
            note("target_unused", f"No weights are there for the target modules {sorted(unused)}.")


def _pair_problems(
    pair: dict[str, Tensor],
    module: str,
    config: dict[str, Any] | None,
    shapes: Mapping[str, tuple[int, int]] | None,
) -> list[str]:
    """What is wrong with the two halves at one module: A is [rank, inputs], B is [outputs, rank]."""
    if set(pair) != {"A", "B"}:
        return [f"only half of the pair is there (lora_{''.join(pair)})"]
    down, up = pair["A"], pair["B"]
    if len(down.shape) != 2 or len(up.shape) != 2 or down.shape[0] != up.shape[1]:
        return [f"lora_A {list(down.shape)} and lora_B {list(up.shape)} do not fit together"]
    problems: list[str] = []
    if down.dtype != up.dtype:
        problems.append(f"lora_A is {down.dtype} and lora_B is {up.dtype}")
    if config is not None and down.shape[0] != config["r"]:
        problems.append(f"its rank is {down.shape[0]}, the configuration says {config['r']}")
    if config is not None and module not in config["target_modules"]:
        problems.append("it is not among the target modules")
    if shapes is not None and shapes.get(module) != (down.shape[1], up.shape[0]):
        problems.append(f"it maps {down.shape[1]} to {up.shape[0]}, the base model has {shapes.get(module)}")
    return problems


def _finite(data: bytes, tensor: Tensor) -> bool:
    kind, mask = _INFINITE[tensor.dtype]
    count = (tensor.end - tensor.start) // kind.itemsize
    bits = np.frombuffer(data, dtype=kind, count=count, offset=tensor.start)
    return not bool(((bits & mask) == mask).any())
