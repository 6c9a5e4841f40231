"""API keys: made once, shown once, kept as a hash."""

from __future__ import annotations

from graftwork.control.bell import Bell
from graftwork.control.views import KeyCreated
from graftwork.core import ids
from graftwork.core.clock import Clock
from graftwork.core.errors import InvalidRequest, NotFound
from graftwork.core.keys import key_digest, new_key
from graftwork.core.nouns import ApiKey
from graftwork.store import Store

NAME = (1, 128)


class KeysService:
    """A project's API keys."""

    def __init__(self, store: Store, clock: Clock, bell: Bell, pepper: bytes) -> None:
        self._store = store
        self._clock = clock
        self._bell = bell
        self._pepper = pepper

    async def create(self, project_id: str, *, name: str, expires_after: float | None = None) -> KeyCreated:
        """Make a key; its text is in the answer and nowhere else. ``expires_after`` is seconds from now.

        Raises:
            InvalidRequest: no name, too long a name, or a life that is not positive.
        """
        if not NAME[0] <= len(name.strip()) <= NAME[1] or "\x00" in name:
            raise InvalidRequest(
                f"A key needs a name of {NAME[0]} to {NAME[1]} characters.",
                fix="Name what will use it.",
                param="name",
            )
        if expires_after is not None and not expires_after > 0:
            raise InvalidRequest(
                "expires_after must be a positive number of seconds.",
                fix="Or leave it out.",
                param="expires_after",
            )
        parts, now = new_key(), self._clock.now()
        key = ApiKey(
            id=ids.new_id(ids.KEY),
            project_id=project_id,
            name=name.strip(),
            lookup=parts.lookup,
            digest=key_digest(parts.secret, self._pepper),
            created_at=now,
            expires_at=None if expires_after is None else now + expires_after,
        )
        async with self._store.begin() as tx:
            await tx.keys.create(key)
        self._bell.ring()
        return KeyCreated(key=key, text=parts.text)

    async def list(self, project_id: str) -> list[ApiKey]:
        """The project's keys, revoked ones included; secrets are nowhere in them."""
        async with self._store.read() as tx:
            return await tx.keys.list(project_id)

    async def revoke(self, project_id: str, key_id: str) -> None:
        """Revoke a key: requests with it are refused from now on. Twice is once.

        Raises:
            NotFound: no such key in this project.
        """
        async with self._store.begin() as tx:
            revoked = await tx.keys.revoke(project_id, key_id, self._clock.now())
        if not revoked:
            raise NotFound(
                f"No such key: {key_id!r}.",
                fix="List the project's keys to see their ids.",
                code="key_not_found",
            )
        self._bell.ring()
