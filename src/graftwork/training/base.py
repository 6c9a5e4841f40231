"""From a run's base model to an engine that holds it and a renderer that speaks its template."""

from __future__ import annotations

import os
from pathlib import Path

from graftwork.core.specs import BaseRef
from graftwork.data.rendering import Renderer
from graftwork.models.cache import locate
from graftwork.training.native import NativeEngine

CACHE = "GRAFTWORK_CACHE"
"""Environment variable: the folder that base models are downloaded to."""


def open_base(base: BaseRef) -> tuple[NativeEngine, Renderer]:
    """Find (or download), check and load a base model.

    Raises as ``locate``, ``Renderer.load`` and ``NativeEngine.load`` do.
    """
    cache = os.environ.get(CACHE)
    folder = locate(base, Path(cache) if cache else Path.home() / ".cache" / "graftwork" / "models")
    return NativeEngine.load(folder), Renderer.load(folder)
