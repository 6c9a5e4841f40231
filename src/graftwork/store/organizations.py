"""Organizations: the tenants."""

from __future__ import annotations

from graftwork.core.nouns import Organization
from graftwork.store.session import Items, Repository
from graftwork.store.tables import organizations


class Organizations(Repository):
    """Tenants."""

    async def create(self, organization: Organization) -> None:
        """Add a tenant."""
        await self._insert(organizations, organization)
        self._touch()

    async def get(self, id: str) -> Organization | None:
        """The tenant, if there is one of this id."""
        return await self._one(Organization, organizations, organizations.c.id == id)

    async def list(self) -> Items[Organization]:
        """All tenants, oldest first."""
        return await self._all(
            Organization, organizations, order=[organizations.c.created_at, organizations.c.id]
        )
