"""API keys on the wire: never their secrets, but for the one answer that makes them."""

from __future__ import annotations

from graftwork.api.wire.base import Body, Wire
from graftwork.control.views import KeyCreated
from graftwork.core.nouns import ApiKey


class CreateKey(Body):
    """A new key; ``expires_after`` is seconds from now."""

    name: str
    expires_after: float | None = None


class Key(Wire):
    """A key as it is listed."""

    id: str
    name: str
    lookup: str
    """The public part: ``gw_<lookup>_…``."""
    created_at: float
    expires_at: float | None
    revoked_at: float | None
    last_used_at: float | None


class NewKey(Key):
    """A key with its text, shown this once."""

    key: str


class KeyRevoked(Wire):
    """A key is refused from now on."""

    id: str
    revoked: bool = True


def key_wire(key: ApiKey) -> Key:
    """A key without its digest."""
    return Key(
        id=key.id,
        name=key.name,
        lookup=key.lookup,
        created_at=key.created_at,
        expires_at=key.expires_at,
        revoked_at=key.revoked_at,
        last_used_at=key.last_used_at,
    )


def new_key_wire(made: KeyCreated) -> NewKey:
    """A fresh key and its text."""
    return NewKey(**key_wire(made.key).model_dump(), key=made.text)
