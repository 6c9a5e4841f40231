"""From a run's base model to an engine that holds it and a renderer that speaks its template."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from graftwork.core.errors import PlatformError, TrainingError, UserError
from graftwork.core.specs import BaseRef, Quantization, RunSpec
from graftwork.data.rendering import Renderer
from graftwork.models.cache import locate
from graftwork.training.engine import Engine
from graftwork.training.packed.engine import PackedEngine
from graftwork.training.solo import SoloEngine

CACHE = "GRAFTWORK_CACHE"
"""Environment variable: the folder that base models are downloaded to."""


def open_base(spec: RunSpec) -> tuple[Engine, Renderer]:
    """Find (or download), check and load the base model of a run.

    Adapters share steps where the model can run packed; else they take turns. DoRA trains alone. The base is
    held as ``spec.quantization`` says.

    Raises:
        PlatformError: it cannot be had or used on this machine; with the code of what ``locate``,
            ``Renderer.load`` or ``SoloEngine.load`` raised. The customer cannot mend a worker.
    """
    folder = locate_base(spec.base)
    with _ours_to_mend():
        if spec.lora.dora:
            engine: Engine = SoloEngine.load(folder, quantization=spec.quantization)
        else:
            engine = open_engine(folder, spec.quantization)
    return engine, load_renderer(folder)


def locate_base(base: BaseRef) -> Path:
    """The base model's folder on this machine, downloaded if it is not there yet.

    Raises:
        PlatformError: it cannot be had, with the code of what ``locate`` raised.
    """
    cache = os.environ.get(CACHE)
    with _ours_to_mend():
        return locate(base, Path(cache) if cache else Path.home() / ".cache" / "graftwork" / "models")


def load_renderer(folder: Path) -> Renderer:
    """The renderer of a base model on this machine.

    Raises:
        PlatformError: its template cannot be used, with the code of what ``Renderer.load`` raised.
    """
    with _ours_to_mend():
        return Renderer.load(folder)


@contextmanager
def _ours_to_mend() -> Iterator[None]:
    """A base model's mistakes, as the platform's: the customer cannot mend a worker."""
    try:
        yield
    except UserError as error:
        raise PlatformError(error.message, fix=error.fix, code=error.code) from error


def open_engine(folder: Path, quantization: Quantization = "none") -> Engine:
    """The packed engine on the model in ``folder``, or the solo engine if the model cannot run packed."""
    try:
        return PackedEngine.load(folder, quantization=quantization)
    except TrainingError as error:
        if error.code != "unsupported_model":
            raise
        return SoloEngine.load(folder, quantization=quantization)
