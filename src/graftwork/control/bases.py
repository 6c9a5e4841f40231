"""Base models as the control plane uses them: which there are, where their files lie, how they render rows."""

from __future__ import annotations

import asyncio
from pathlib import Path

from graftwork.data import Renderer
from graftwork.models import CatalogueEntry, catalogue, locate


class Bases:
    """The base models of this server. Files are located (or fetched) once, renderers are kept.

    Args:
        cache: folder for base models fetched from elsewhere.
    """

    def __init__(self, cache: Path) -> None:
        self._cache = cache
        self._renderers: dict[str, Renderer] = {}
        self._lock = asyncio.Lock()

    def get(self, name: str) -> CatalogueEntry:
        """The entry of a base model.

        Raises:
            NotFound: there is none of that name (``model_not_found``).
        """
        return catalogue.get(name)

    def list(self) -> list[CatalogueEntry]:
        """All base models that may be asked for by name."""
        return catalogue.list()

    async def path(self, name: str) -> Path:
        """The folder with the model's files; may download, so it may take long.

        Raises:
            NotFound: there is no such base model.
            Unavailable: it cannot be fetched now.
        """
        return await asyncio.to_thread(locate, self.get(name), self._cache)

    async def renderer(self, name: str) -> Renderer:
        """The model's tokenizer and chat template.

        Raises:
            NotFound, Unavailable: as ``path``.
        """
        async with self._lock:
            if name not in self._renderers:
                self._renderers[name] = await asyncio.to_thread(Renderer.load, await self.path(name))
            return self._renderers[name]
