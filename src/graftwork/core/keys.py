"""API keys: ``gw_<lookup>_<secret>``. The public part finds a key, a hash under a pepper proves it.

The secret has over 230 random bits, so a fast keyed hash is the right one: a slow hash on each request would
only help an attacker who wants the server to be slow.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from dataclasses import dataclass, field

from graftwork.core import ids

_TEXT = re.compile(r"gw_([0-9A-Za-z]{12})_([0-9A-Za-z]{40})")


@dataclass(frozen=True, slots=True)
class KeyParts:
    """The two parts of a key's text."""

    lookup: str
    secret: str = field(repr=False)

    @property
    def text(self) -> str:
        """The key as its owner sends it."""
        return f"gw_{self.lookup}_{self.secret}"


def new_key() -> KeyParts:
    """A fresh key."""
    return KeyParts(ids.new_id("", 12), ids.new_id("", 40))


def parse_key(text: str) -> KeyParts | None:
    """The parts of a key's text; None when it cannot be one of ours."""
    match = _TEXT.fullmatch(text)
    return KeyParts(match[1], match[2]) if match else None


def key_digest(secret: str, pepper: bytes) -> str:
    """HMAC-SHA256 of a key's secret part, in hex: what is stored."""
    return hmac.new(pepper, secret.encode(), hashlib.sha256).hexdigest()


def key_matches(secret: str, digest: str, pepper: bytes) -> bool:
    """Whether ``secret`` is the one behind ``digest``, in constant time."""
    return hmac.compare_digest(key_digest(secret, pepper), digest)
