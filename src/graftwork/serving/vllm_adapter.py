"""Adapters as vLLM reads them (0.32). Torch-free.

vLLM reads PEFT's linear halves as they are. Of experts it wants one pair of halves for each expert and
projection, under the names that transformers 4 had (``mlp.experts.3.gate_proj``): the stacked halves are
cut, and gate and up share the down half that they were trained with. GLM's ``gate_up_proj`` is cut
likewise. Scales are folded into the up halves, so that nothing hangs on how vLLM reads patterns: the
written adapter has scale 1 everywhere.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from graftwork.core.errors import Conflict, InvalidRequest
from graftwork.models.lora import CONFIG, WEIGHTS, NotPlainLora, Part, parts_of
from graftwork.models.tensorfile import Floats, TensorFile, write_tensors

Tensors = dict[str, tuple[str, tuple[int, ...], Callable[[], Floats]]]

RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""Values that ``--max-lora-rank`` may have."""


def for_vllm(adapter: Path, into: Path, experts: int = 0) -> int:
    """Write ``adapter`` as the new folder ``into``, in the form that vLLM reads.

    Args:
        adapter: LoRA or rsLoRA in PEFT's format.
        into: a folder that is not there yet.
        experts: how many experts the base has in a stack; 0 if it has none.

    Returns:
        The largest rank in it; ``max_lora_rank`` says what vLLM must be started with.

    Raises:
        Conflict: ``into`` exists.
        InvalidRequest: it is nothing that vLLM serves (``invalid_adapter``).
    """
    if into.exists():
        raise Conflict(f"{into} exists already.", fix="Name a folder that does not exist.")
    try:
        config: dict[str, Any] = json.loads((adapter / CONFIG).read_bytes())
        with TensorFile(adapter / WEIGHTS) as weights:
            shapes = {name: place.shape for name, place in weights.places.items()}
            parts = parts_of(config, shapes, experts)
            if any(part.magnitude for part in parts):
                raise NotPlainLora("it is a DoRA, which vLLM does not serve; merge it into the base model")
            tensors: Tensors = {}
            for part in parts:
                tensors.update(_halves(part, weights))
            _write(into, config, parts, tensors)
    except (OSError, ValueError, NotPlainLora) as error:
        shutil.rmtree(into, ignore_errors=True)
        raise InvalidRequest(
            f"The adapter in {adapter.name} cannot be given to vLLM: {error}.",
            fix="Load an adapter that was trained with LoRA or rsLoRA.",
            code="invalid_adapter",
        ) from error
    return max(part.rank for part in parts)


def max_lora_rank(rank: int) -> int:
    """The least value of ``--max-lora-rank`` that holds ``rank``."""
    return next(allowed for allowed in RANKS if allowed >= rank)


def _write(into: Path, config: dict[str, Any], parts: tuple[Part, ...], tensors: Tensors) -> None:
    rank = max(part.rank for part in parts)
    names = {name.removeprefix("base_model.model.").split(".lora_")[0] for name in tensors}
    into.mkdir(parents=True)
    write_tensors(into / WEIGHTS, tensors)
    written = {
        "base_model_name_or_path": config.get("base_model_name_or_path"),
        "bias": "none",
        "inference_mode": True,
        "lora_alpha": rank,
        "lora_dropout": 0.0,
        "peft_type": "LORA",
        "r": rank,
        "target_modules": sorted({name.rpartition(".")[2] for name in names}),
        "task_type": "CAUSAL_LM",
    }
    (into / CONFIG).write_text(json.dumps(written, indent=2) + "\n")


def _halves(part: Part, weights: TensorFile) -> Iterator[tuple[str, tuple[str, tuple[int, ...], Any]]]:
    if part.parameter:
        return _stacked(part, weights)
    return _fused(part, weights) if part.path.endswith(".gate_up_proj") else _plain(part, weights)


def _fused(part: Part, weights: TensorFile) -> Iterator[tuple[str, tuple[str, tuple[int, ...], Any]]]:
    """A linear module that is gate and up in one, as two."""
    down, up = weights.places[part.down], weights.places[part.up]
    outputs = up.shape[0] // 2
    for half, projection in enumerate(("gate_proj", "up_proj")):
        path = f"{part.path.removesuffix('gate_up_proj')}{projection}"
        rows = slice(half * outputs, (half + 1) * outputs)
        yield _name(path, "A"), (down.dtype, down.shape, lambda: weights.floats(part.down))
        yield (
            _name(path, "B"),
            (up.dtype, (outputs, part.rank), lambda r=rows: _scaled(part, weights.floats(part.up)[r])),
        )


def _plain(part: Part, weights: TensorFile) -> Iterator[tuple[str, tuple[str, tuple[int, ...], Any]]]:
    """Both halves of a linear module, the scale folded into the second."""
    down, up = weights.places[part.down], weights.places[part.up]
    yield _name(part.path, "A"), (down.dtype, down.shape, lambda: weights.floats(part.down))
    yield _name(part.path, "B"), (up.dtype, up.shape, lambda: _scaled(part, weights.floats(part.up)))


def _stacked(part: Part, weights: TensorFile) -> Iterator[tuple[str, tuple[str, tuple[int, ...], Any]]]:
    """Pairs of halves of every expert: one for ``down_proj``, two for ``gate_up_proj``."""
    down, up = weights.places[part.down], weights.places[part.up]
    projections = ("down_proj",) if part.parameter == "down_proj" else ("gate_proj", "up_proj")
    outputs = up.shape[0] // len(projections)
    for number in range(part.experts):
        for half, projection in enumerate(projections):
            path = f"{part.path}.{number}.{projection}"
            rows = slice(half * outputs, (half + 1) * outputs)
            yield (
                _name(path, "A"),
                (
                    down.dtype,
                    (part.rank, down.shape[1]),
                    lambda e=number: weights.floats(part.down).reshape(part.experts, part.rank, -1)[e],
                ),
            )
            yield (
                _name(path, "B"),
                (
                    up.dtype,
                    (outputs, part.rank),
                    lambda e=number, r=rows: _scaled(
                        part, weights.floats(part.up).reshape(-1, part.rank, part.experts)[r, :, e]
                    ),
                ),
            )


def _scaled(part: Part, up: Floats) -> Floats:
    return np.multiply(up, np.float32(part.scale), dtype=np.float32)


def _name(path: str, half: str) -> str:
    return f"base_model.model.{path}.lora_{half}.weight"
