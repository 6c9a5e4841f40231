"""Saving a session and finding it again. No pickle: tensors are safetensors, the rest is JSON.

A checkpoint stands alone: the adapter, the optimizer's moments, where the run is (``state.json``), and, when
an earlier step is the best so far, that step's adapter too. Data order and dropout follow from the seed and
the step, so no generator's state is saved.
"""

from __future__ import annotations

import hashlib
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from pydantic import Field, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from graftwork.core.errors import GraftworkError, PlatformError
from graftwork.core.specs import RunSpec
from graftwork.runs.documents import Document
from graftwork.runs.reader import RunReader
from graftwork.training.engine import Adapter
from graftwork.training.export import WEIGHTS, write_adapter

OPTIMIZER, STATE, BEST = "optimizer.safetensors", "state.json", "best.safetensors"


class Progress(Document):
    """Where a run is on its curve."""

    step: int = 0
    tokens: int = 0
    train_loss: float | None = None
    best_step: int | None = None
    best_loss: float | None = None
    worse: int = 0
    """Evaluations since the best."""
    base_valid_loss: float | None = None
    measured: dict[str, float] = Field(default_factory=dict[str, float])
    """What the method measures of held-out rows: of the best step (``eval_``), of the base (``base_``)."""
    metrics: dict[str, float] = Field(default_factory=dict[str, float])
    """Of the last step, under OpenAI's names for a checkpoint's metrics."""

    def advance(self, **changes: object) -> Progress:
        """The same with some fields changed."""
        return self.model_copy(update=changes)


class State(Document):
    """``state.json`` of a checkpoint."""

    format: Literal[2] = 2
    """2: the optimizer's moments lie in the order of tensors' names."""
    spec: str
    """sha256 of the specification: a checkpoint continues no other run."""
    progress: Progress


@dataclass(frozen=True, slots=True)
class Saved:
    """A checkpoint read back."""

    fence: int
    progress: Progress
    adapter: dict[str, torch.Tensor]
    best: dict[str, torch.Tensor] | None
    """Adapter of ``progress.best_step``, when that is an earlier step."""
    optimizer: dict[str, torch.Tensor]


def fingerprint(spec: RunSpec) -> str:
    """sha256 of a specification."""
    return hashlib.sha256(spec.model_dump_json().encode()).hexdigest()


def write_state(
    directory: Path,
    spec: RunSpec,
    progress: Progress,
    adapter: Adapter,
    best: torch.Tensor | None,
    optimizer: dict[str, torch.Tensor],
) -> None:
    """Fill ``directory`` with a checkpoint's files; ``best`` are flat weights of ``progress.best_step``."""
    write_adapter(directory, adapter, spec.lora, spec.base)
    save_file(
        {name: _by_name(tensor, adapter).cpu() for name, tensor in optimizer.items()}, directory / OPTIMIZER
    )
    if best is not None and progress.best_step != progress.step:
        save_file(
            {name: tensor.contiguous().cpu() for name, tensor in adapter.tensors(best).items()},
            directory / BEST,
        )
    state = State(spec=fingerprint(spec), progress=progress)
    (directory / STATE).write_bytes(state.to_bytes())


def moments(saved: Saved, adapter: Adapter) -> dict[str, torch.Tensor]:
    """A checkpoint's optimizer state laid out as ``adapter``: every engine orders and pads in its own way.

    Raises:
        PlatformError: ``checkpoint_unusable``, the moments are of another adapter.
    """
    return {name: _laid_out(tensor, adapter) for name, tensor in saved.optimizer.items()}


def _laid_out(tensor: torch.Tensor, adapter: Adapter) -> torch.Tensor:
    """The inverse of ``_by_name``; what lies between an adapter's tensors becomes zero."""
    if tensor.dim() != 1:
        return tensor
    flat = torch.zeros(adapter.weights.numel(), dtype=tensor.dtype)
    views = [view for _, view in sorted(adapter.tensors(flat).items())]
    sizes = [view.numel() for view in views]
    if sum(sizes) != tensor.numel():
        raise _of_another()
    for view, part in zip(views, tensor.split(sizes), strict=True):
        view.copy_(part.view(view.shape))
    return flat


def _by_name(tensor: torch.Tensor, adapter: Adapter) -> torch.Tensor:
    """A flat vector's tensors in the order of their names, which is every engine's; counters as they are."""
    if tensor.dim() != 1:
        return tensor
    return torch.cat([view.flatten() for _, view in sorted(adapter.tensors(tensor).items())])


def newest(reader: RunReader, spec: RunSpec, fence: int) -> tuple[Saved | None, list[GraftworkError]]:
    """The furthest usable checkpoint of attempts up to ``fence``, and why further ones could not be used."""
    refused: list[GraftworkError] = []
    found = sorted(reader.checkpoints(fence), key=lambda pair: (pair[1].step, pair[0]), reverse=True)
    for owner, manifest in found:
        with tempfile.TemporaryDirectory(prefix="graftwork-") as folder:
            try:
                reader.fetch(manifest.dir, manifest.files, Path(folder))
                return _read(Path(folder), owner, fingerprint(spec)), refused
            except PlatformError as error:
                refused.append(error)
    return None, refused


def _read(folder: Path, fence: int, spec: str) -> Saved:
    try:
        state = State.model_validate_json((folder / STATE).read_bytes())
        if state.spec != spec:
            raise ValueError("it belongs to another specification")
        best = folder / BEST
        return Saved(
            fence=fence,
            progress=state.progress,
            adapter=load_file(folder / WEIGHTS),
            best=load_file(best) if best.exists() else None,
            optimizer=load_file(folder / OPTIMIZER),
        )
    except (OSError, ValueError, ValidationError, SafetensorError) as error:
        raise PlatformError(f"A checkpoint cannot be used: {error}.", code="checkpoint_unusable") from error


def pour(tensors: dict[str, torch.Tensor], adapter: Adapter, flat: torch.Tensor) -> None:
    """Copy tensors by PEFT name into a flat vector laid out as ``adapter``'s.

    Raises:
        PlatformError: ``checkpoint_unusable``, names or shapes are not the adapter's.
    """
    views = adapter.tensors(flat)
    if {name: view.shape for name, view in views.items()} != {name: t.shape for name, t in tensors.items()}:
        raise _of_another()
    for name, view in views.items():
        view.copy_(tensors[name])


def _of_another() -> PlatformError:
    return PlatformError(
        "The checkpoint's adapter has other tensors than this base model's.",
        fix="Resume with the code and the base model that wrote it.",
        code="checkpoint_unusable",
    )
