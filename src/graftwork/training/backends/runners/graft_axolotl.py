"""Axolotl's way to a callback of ours: a plugin, named in its config. Runs in its environment."""

from __future__ import annotations

from typing import Any

from axolotl.integrations.base import BasePlugin  # pyright: ignore[reportMissingImports]
from graft_events import Events  # pyright: ignore[reportMissingImports] - it lies beside this file


class Graft(BasePlugin):
    """Adds the callback."""

    def add_callbacks_pre_trainer(self, cfg: Any, model: Any) -> list[Any]:
        """See ``BasePlugin``."""
        return [Events()]
