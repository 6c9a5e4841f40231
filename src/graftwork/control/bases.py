"""Base models as the control plane uses them: which there are, where they lie, how they render rows."""

from __future__ import annotations

import asyncio
from pathlib import Path

from graftwork.core.specs import BaseRef
from graftwork.data import Renderer
from graftwork.models import Catalogue, CatalogueEntry, locate, pin
from graftwork.models.cache import Hub


class Bases:
    """The base models of this server. Files are fetched once, renderers are kept.

    Args:
        catalogue: which base models may be named.
        cache: folder for base models fetched from elsewhere.
        hub: where they are fetched from.
    """

    def __init__(self, catalogue: Catalogue, cache: Path, hub: Hub | None = None) -> None:
        self._catalogue = catalogue
        self._cache = cache
        self._hub = hub
        self._renderers: dict[tuple[str, str], Renderer] = {}

    async def get(self, name: str) -> CatalogueEntry:
        """The entry of a base model, as far as it is known without fetching a known model's files.

        Raises:
            NotFound: there is none of that name, or it may not be used here (``model_not_found``).
        """
        return await asyncio.to_thread(self._catalogue.get, name)

    async def pinned(self, name: str) -> CatalogueEntry:
        """The entry with the commit it stands for now; may download, so it may take long.

        Raises:
            NotFound, InvalidRequest: as ``models.locate``.
        """
        return await asyncio.to_thread(pin, await self.get(name), self._cache, self._hub)

    def list(self) -> tuple[CatalogueEntry, ...]:
        """All base models that may be named without further ado."""
        return self._catalogue.list()

    def engine(self, entry: CatalogueEntry) -> str:
        """The engine that serves a base model here."""
        return entry.engines[0]

    async def path(self, name: str) -> Path:
        """The folder with the model's files; may download.

        Raises:
            NotFound, InvalidRequest: as ``models.locate``.
        """
        return await asyncio.to_thread(locate, await self.pinned(name), self._cache, self._hub)

    async def files(self, base: BaseRef) -> Path:
        """The folder with the files of a base model as it was pinned; may download.

        Raises:
            NotFound, InvalidRequest: as ``models.locate``.
        """
        return await asyncio.to_thread(locate, base, self._cache, self._hub)

    async def renderer(self, name: str) -> Renderer:
        """The model's tokenizer and chat template.

        Raises:
            NotFound, InvalidRequest: as ``models.locate``.
        """
        entry = await self.pinned(name)
        key = (entry.repository, entry.revision)
        if key not in self._renderers:
            folder = await asyncio.to_thread(locate, entry, self._cache, self._hub)
            self._renderers[key] = await asyncio.to_thread(Renderer.load, folder)
        return self._renderers[key]
