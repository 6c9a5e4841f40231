"""Price books, one row per version; the newest counts."""

from __future__ import annotations

from sqlalchemy import select

from graftwork.core.nouns import Json
from graftwork.store.session import Repository
from graftwork.store.tables import prices


class Prices(Repository):
    """Versioned price books, as JSON; what is in one is billing's business."""

    async def current(self) -> Json:
        """The newest price book; empty before the first."""
        newest = select(prices.c.book).order_by(prices.c.created_at.desc(), prices.c.version.desc()).limit(1)
        return await self._session.scalar(newest) or {}

    async def get(self, version: str) -> Json | None:
        """One version of the price book."""
        return await self._session.scalar(select(prices.c.book).where(prices.c.version == version))

    async def put(self, version: str, book: Json) -> bool:
        """Add a price book; a version that is there stays as it is (False)."""
        row = {"version": version, "book": book, "created_at": await self._session.now()}
        self._touch()
        return await self._session.insert_new(prices, row)
