"""Adapters: named lines of LoRA weights."""

from __future__ import annotations

from graftwork.core.errors import Conflict
from graftwork.core.ids import ADAPTER, new_id
from graftwork.core.nouns import Adapter
from graftwork.store.session import Items, Repository
from graftwork.store.tables import adapters


class Adapters(Repository):
    """Adapters of projects."""

    async def ensure(self, project_id: str, name: str, base: str, at: float) -> Adapter:
        """The project's adapter of this name, created if need be.

        Raises:
            Conflict: the name belongs to an adapter on another base model (code ``adapter_on_other_base``).
        """
        fresh = Adapter(id=new_id(ADAPTER), project_id=project_id, name=name, base=base, created_at=at)
        if await self._insert_new(adapters, fresh):
            return fresh
        known = await self.get_by_name(project_id, name)
        if known is None or known.base != base:
            other = "another base model" if known is None else known.base
            raise Conflict(
                f"The adapter {name!r} is trained on {other}, not on {base}.",
                code="adapter_on_other_base",
                param="suffix",
                fix="Choose another name (suffix) for an adapter on this base model.",
            )
        return known

    async def get_by_name(self, project_id: str, name: str) -> Adapter | None:
        """The project's adapter of this name."""
        return await self._one(
            Adapter, adapters, adapters.c.project_id == project_id, adapters.c.name == name
        )

    async def get(self, project_id: str, id: str) -> Adapter | None:
        """The project's adapter."""
        return await self._one(Adapter, adapters, adapters.c.project_id == project_id, adapters.c.id == id)

    async def list(self, project_id: str) -> Items[Adapter]:
        """The project's adapters by name."""
        return await self._all(
            Adapter, adapters, adapters.c.project_id == project_id, order=[adapters.c.name]
        )
