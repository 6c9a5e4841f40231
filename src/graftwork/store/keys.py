"""API keys, known by the digest of their secret only."""

from __future__ import annotations

from collections.abc import Iterable

from sqlalchemy import or_

from graftwork.core.nouns import ApiKey
from graftwork.store.session import Items, Repository
from graftwork.store.tables import api_keys


class Keys(Repository):
    """API keys of projects."""

    async def create(self, key: ApiKey) -> None:
        """Add a key."""
        await self._insert(api_keys, key)
        self._touch()

    async def find(self, lookup: str) -> ApiKey | None:
        """The key with this public part, revoked and expired ones too: the caller decides."""
        return await self._one(ApiKey, api_keys, api_keys.c.lookup == lookup)

    async def revoke(self, project_id: str, id: str, at: float) -> bool:
        """Revoke a key; False if the project has no such key. Revoking again keeps the first time."""
        mine = (api_keys.c.id == id, api_keys.c.project_id == project_id)
        self._touch()
        if await self._change(api_keys, *mine, api_keys.c.revoked_at.is_(None), revoked_at=at):
            return True
        return await self._one(ApiKey, api_keys, *mine) is not None

    async def touch(self, ids: Iterable[str], at: float) -> None:
        """Note that keys were used (does not raise the generation)."""
        newer = or_(api_keys.c.last_used_at.is_(None), api_keys.c.last_used_at < at)
        await self._change(api_keys, api_keys.c.id.in_(sorted(ids)), newer, last_used_at=at)

    async def list(self, project_id: str) -> Items[ApiKey]:
        """The project's keys, oldest first, revoked ones too."""
        return await self._all(
            ApiKey,
            api_keys,
            api_keys.c.project_id == project_id,
            order=[api_keys.c.created_at, api_keys.c.id],
        )
