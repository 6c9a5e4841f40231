"""A base model as a folder of files: may it be used, what is it, and which revision is it."""

from __future__ import annotations

import hashlib
import struct
from pathlib import Path
from typing import Any

import orjson

from graftwork.core.errors import InvalidRequest
from graftwork.models.shape import Shape
from graftwork.models.support import SERVED, support_of

__all__ = ["SEEDLING", "SERVED", "WANTED", "describe", "refuse_unserved", "revision_of", "seedling_folder"]

SEEDLING = "seedling"
"""Name of the built-in base model and of its folder in this package."""

_WHOLE = 64 << 20
"""Weights up to this size are hashed whole; larger ones by their header and samples."""
_SAMPLE, _SAMPLES = 1 << 16, 64
WANTED = (
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
    "model.safetensors",
    "model-*.safetensors",
    "model.safetensors.index.json",
)
"""What a base model needs of a repository; nothing else is downloaded, code and pickles least of all."""


def seedling_folder() -> Path:
    """Where the built-in base model lies in the package."""
    return Path(__file__).parent / SEEDLING


def read_config(folder: Path) -> dict[str, Any]:
    """The folder's ``config.json``.

    Raises:
        InvalidRequest: it is missing or no JSON object.
    """
    path = folder / "config.json"
    try:
        config = orjson.loads(path.read_bytes())
    except OSError as error:
        raise _unusable(f"{folder} has no readable config.json: {error.strerror}.") from error
    except orjson.JSONDecodeError as error:
        raise _unusable(f"{path} is not JSON: {error}.") from error
    if not isinstance(config, dict):
        raise _unusable(f"{path} is not a JSON object.")
    return config


def describe(folder: Path) -> Shape:
    """The shape of the model in ``folder``, after checking that it brings no code and all its files.

    Raises:
        InvalidRequest: files are missing, the model brings code, or it is of an unknown kind.
    """
    config = read_config(folder)
    refuse_code(str(folder), [path.name for path in folder.iterdir()], config, _json(folder))
    if not (folder / "tokenizer.json").is_file():
        raise _unusable(f"{folder} has no tokenizer.json.")
    missing = missing_weights(folder)
    if missing:
        raise _unusable(f"{folder} lacks {', '.join(missing)}.")
    return shape_of(config, str(folder))


def missing_weights(folder: Path) -> list[str]:
    """Weight files the folder should have and has not: the single file, or the shards its index names."""
    index = folder / "model.safetensors.index.json"
    if not index.is_file():
        return [] if any(folder.glob("*.safetensors")) else ["model.safetensors"]
    try:
        shards = set(orjson.loads(index.read_bytes())["weight_map"].values())
    except (OSError, orjson.JSONDecodeError, KeyError, TypeError, AttributeError):
        return [f"a readable {index.name}"]
    return sorted(str(name) for name in shards if not (folder / str(name)).is_file())


def shape_of(config: dict[str, Any], where: str) -> Shape:
    """``Shape.of_config`` with an error that says what to do.

    Raises:
        InvalidRequest: a size is missing or not a number.
    """
    try:
        return Shape.of_config(config)
    except (KeyError, TypeError, ValueError, ZeroDivisionError) as error:
        raise InvalidRequest(
            f"The config.json of {where} does not describe a decoder-only language model: {error}.",
            fix="Use a causal language model of the Llama or Qwen kind.",
            code="model_unsupported",
            param="model",
        ) from error


def refuse_unserved(folder: Path) -> None:
    """Refuse a model that no engine here could serve, before anything is spent on training it.

    Raises:
        InvalidRequest: an architecture that ``models.support`` does not name, or weights quantized in a way
            that loading cannot undo (``model_unsupported``).
    """
    config = read_config(folder)
    support_of(str(config.get("model_type")), f"the model in {folder.name}")
    quantized = config.get("quantization_config")
    if quantized and quantized.get("quant_method") != "mxfp4":
        raise InvalidRequest(
            f"No engine here can serve the model in {folder.name}: its weights are quantized.",
            fix="Use the model in bfloat16, float16 or float32.",
            code="model_unsupported",
            param="model",
        )


def refuse_code(where: str, names: list[str], *configs: dict[str, Any]) -> None:
    """Refuse a model that brings code of its own; it would run with the trainer's rights.

    Raises:
        InvalidRequest: a Python file, or an ``auto_map`` in a config (``model_needs_code``).
    """
    code = sorted(name for name in names if name.endswith(".py"))
    if code or any("auto_map" in config for config in configs):
        what = f"Python files ({', '.join(code)})" if code else "an auto_map in its config"
        raise InvalidRequest(
            f"{where} brings code of its own: {what}. Such code is never run.",
            fix="Use a model that transformers supports without trust_remote_code.",
            code="model_needs_code",
            param="model",
        )


def revision_of(folder: Path) -> str:
    """A hash that names the folder's content: 40 hex digits.

    Over every wanted file's name and size, and its content: whole for configs, tokenizer and weights up to
    64 MiB; for larger weights the safetensors header (names, types, shapes, offsets of all tensors) and 64
    samples of 64 KiB evenly spread. So a re-trained model has another revision, without reading a terabyte;
    a hand that changes a few weights between the samples goes unseen.
    """
    digest = hashlib.sha256()
    for path in sorted({path for pattern in WANTED for path in folder.glob(pattern)}):
        size = path.stat().st_size
        digest.update(f"{path.name}\0{size}\0".encode())
        if path.suffix == ".safetensors" and size > _WHOLE:
            _sampled(path, size, digest.update)
        else:
            with path.open("rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()[:40]


def _sampled(path: Path, size: int, update: Any) -> None:
    with path.open("rb") as file:
        (header,) = struct.unpack("<Q", file.read(8))
        update(file.read(min(header, _WHOLE)))
        for index in range(_SAMPLES):
            file.seek((size - _SAMPLE) * index // (_SAMPLES - 1))
            update(file.read(_SAMPLE))


def _json(folder: Path) -> dict[str, Any]:
    try:
        value = orjson.loads((folder / "tokenizer_config.json").read_bytes())
    except (OSError, orjson.JSONDecodeError):
        return {}
    return value if isinstance(value, dict) else {}


def _unusable(message: str) -> InvalidRequest:
    return InvalidRequest(
        message,
        fix="Give a folder with config.json, tokenizer.json and *.safetensors (save_pretrained writes it).",
        code="model_folder_invalid",
        param="model",
    )
