"""Machine names: what they may look like, so that they are safe as folders and legal at every provider."""

from __future__ import annotations

import re

from graftwork.compute.port import BadRequest

_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,119}")


def check_name(name: str) -> str:
    """Return ``name`` if it can name a machine.

    Raises:
        BadRequest: it is empty, too long, or holds other characters than ``a-z 0-9 _ -``.
    """
    if not _NAME.fullmatch(name):
        raise BadRequest(
            f"{name!r} cannot name a machine.",
            fix="Use 1 to 120 lower-case letters, digits, '-' and '_', beginning with a letter or digit.",
            param="name",
        )
    return name
