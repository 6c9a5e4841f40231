"""Weights: content-addressed sets of adapter files."""

from __future__ import annotations

from graftwork.core.nouns import Weights
from graftwork.store.session import Repository
from graftwork.store.tables import weights


class WeightsTable(Repository):
    """Adapter files by their digest. The digest is the name: whoever may know it is the caller's to check."""

    async def create(self, new: Weights) -> bool:
        """Add weights; the same digest again is a no-op (False)."""
        return await self._insert_new(weights, new)

    async def get(self, digest: str) -> Weights | None:
        """The weights of this digest."""
        return await self._one(Weights, weights, weights.c.digest == digest)
