"""Endpoints: desired state for serving one base model each."""

from __future__ import annotations

from typing import Any

from graftwork.core.ids import ENDPOINT, new_id
from graftwork.core.nouns import Endpoint
from graftwork.store.session import Items, Repository
from graftwork.store.tables import endpoints


class Endpoints(Repository):
    """Endpoints, shared by all projects."""

    async def ensure(self, base: str, engine: str, at: float) -> Endpoint:
        """The endpoint of a base model, created if need be (an existing one keeps its engine)."""
        fresh = Endpoint(id=new_id(ENDPOINT), base=base, engine=engine, created_at=at)
        if await self._insert_new(endpoints, fresh):
            self._touch()
            return fresh
        known = await self.by_base(base)
        return known or fresh

    async def get(self, id: str) -> Endpoint | None:
        """One endpoint."""
        return await self._one(Endpoint, endpoints, endpoints.c.id == id)

    async def by_base(self, base: str) -> Endpoint | None:
        """The endpoint of a base model."""
        return await self._one(Endpoint, endpoints, endpoints.c.base == base)

    async def update(self, id: str, **changes: Any) -> bool:
        """Change fields of an endpoint; False if there is no such endpoint."""
        self._touch()
        return await self._change(endpoints, endpoints.c.id == id, **changes)

    async def list(self) -> Items[Endpoint]:
        """All endpoints, oldest first."""
        return await self._all(Endpoint, endpoints, order=[endpoints.c.created_at, endpoints.c.id])
