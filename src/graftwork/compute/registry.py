"""Providers by name. A factory imports its provider only when it is asked for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from graftwork.compute.port import Provider
from graftwork.core.clock import Clock
from graftwork.core.errors import InvalidRequest

Factory = Callable[[Path, Clock, Mapping[str, Any]], Provider]
"""Makes a provider from its state folder, the clock, and its options (checked by its own model)."""


def _local(root: Path, clock: Clock, options: Mapping[str, Any]) -> Provider:
    from graftwork.compute.local.provider import create

    return create(root, clock, options)


PROVIDERS: dict[str, Factory] = {"local": _local}


def create_provider(
    name: str, *, root: Path, clock: Clock, options: Mapping[str, Any] | None = None
) -> Provider:
    """The provider ``name``; ``root`` is a folder of its own, ``options`` what its ``models.py`` takes.

    Raises:
        InvalidRequest: there is no such provider, or its options are wrong; says which exist.
    """
    factory = PROVIDERS.get(name)
    if factory is None:
        raise InvalidRequest(
            f"There is no provider {name!r}.",
            fix=f"Use one of: {', '.join(sorted(PROVIDERS))}.",
            code="unknown_provider",
            param="provider",
        )
    return factory(root, clock, options or {})
