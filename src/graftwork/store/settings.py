"""The install's own settings: its id and the like."""

from __future__ import annotations

from typing import Any

from sqlalchemy import select

from graftwork.store.session import Repository
from graftwork.store.tables import settings


class SettingsTable(Repository):
    """JSON values by key."""

    async def get(self, key: str) -> Any:
        """The value, or None."""
        return await self._session.scalar(select(settings.c.value).where(settings.c.key == key))

    async def put(self, key: str, value: Any) -> None:
        """Set a value."""
        statement = self._session.insert(settings).values(key=key, value=value)
        await self._session.run(
            statement.on_conflict_do_update(index_elements=["key"], set_={"value": statement.excluded.value})
        )

    async def put_new(self, key: str, value: Any) -> Any:
        """Set a value unless there is one; the value that now counts."""
        await self._session.run(
            self._session.insert(settings).values(key=key, value=value).on_conflict_do_nothing()
        )
        return await self.get(key)
