"""Engines by name. A factory imports its engine only when it is asked for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from graftwork.core.errors import InvalidRequest
from graftwork.serving.port import Engine


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineConfig:
    """What every factory is given."""

    root: Path
    """A folder of the engine's own, for its token, logs and generation; kept across restarts."""
    options: dict[str, Any] = field(default_factory=dict)
    """Options of this kind of engine, e.g. ``{"max_running": 16}``."""


Factory = Callable[[EngineConfig], Engine]


def _embedded(config: EngineConfig) -> Engine:
    from graftwork.serving.embedded_driver import EmbeddedEngine
    from graftwork.serving.embedded_process import EmbeddedOptions

    return EmbeddedEngine(config.root, EmbeddedOptions(**config.options))


FACTORIES: dict[str, Factory] = {"embedded": _embedded}
"""Known engines; tests and plug-ins may add theirs with ``register``."""


def register(name: str, factory: Factory) -> None:
    """Add an engine. Raises ``ValueError`` when the name is taken."""
    if name in FACTORIES:
        raise ValueError(f"the engine {name!r} is registered already")
    FACTORIES[name] = factory


def create(name: str, config: EngineConfig) -> Engine:
    """A new driver of the engine ``name``; nothing is started.

    Raises:
        InvalidRequest: no such engine (code ``unknown_engine``).
    """
    factory = FACTORIES.get(name)
    if factory is None:
        raise InvalidRequest(
            f"There is no engine named {name!r}.",
            fix=f"Choose one of: {', '.join(sorted(FACTORIES))}.",
            code="unknown_engine",
            param="engine",
        )
    return factory(config)
