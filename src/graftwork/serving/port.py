"""The engine port: what control may ask of a server that runs one base model with many adapters.

An engine is reached in two ways. This port starts it, feeds it adapters and ends it; inference itself is
always OpenAI HTTP at ``EngineInfo.url``, so the gateway knows only URLs. Engines know versions only by
content-addressed names (``engine_name``); aliases, tenants and prices are none of their business.

The registry of adapters inside an engine is memory: it is empty after every start. Whoever wants an
adapter served loads it again whenever ``EngineInfo.generation`` has grown. Replica counts (``scale``)
are an ability of engines that have replicas, not of the port.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Protocol

BASE = "base"
"""The model name by which every engine answers as the base model."""


def engine_name(digest: str) -> str:
    """The name of a set of weights inside an engine: the first 32 hex digits of its digest."""
    return digest.removeprefix("sha256:")[:32]


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineInfo:
    """How to reach a running engine."""

    url: str
    """Origin without a path, e.g. ``http://127.0.0.1:41233``; the OpenAI API is under ``/v1``."""
    token: str = field(repr=False)
    """Bearer token, required on every route."""
    generation: int
    """Grows with every start of the engine; adapters loaded under an older one are gone."""


class EngineState(StrEnum):
    """An engine as its driver sees it."""

    ABSENT = "absent"
    """Never started, or destroyed."""
    STARTING = "starting"
    READY = "ready"
    FAILED = "failed"
    """Was started and is dead, or does not answer; ``ensure`` starts it again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineStatus:
    """What ``observe`` saw."""

    state: EngineState
    info: EngineInfo | None = None
    """Set exactly when ``state`` is ready."""
    adapters: frozenset[str] = frozenset()
    message: str | None = None
    """Why, when failed: a sentence and the engine's last words."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineMetrics:
    """Counters since the engine's start, and gauges of this moment."""

    running: int
    waiting: int
    kv_tokens_used: int
    kv_tokens_total: int
    prompt_tokens: int
    """Tokens of prompts processed, all models together."""
    generated_tokens: int
    requests: int
    generated_by_model: dict[str, int] = field(default_factory=dict)
    """Generated tokens by model name; includes names unloaded since."""


class Engine(Protocol):
    """One engine for one base model.

    All methods are safe to call at any time and from several tasks at once. None retries by itself; the
    reconciler that called does, later. ``Unavailable`` always means: nothing is known to have happened,
    ask again.
    """

    async def ensure(self, base: Path, name: str) -> EngineInfo:
        """Make the engine run ``base`` and wait until it answers. Blocks for seconds to minutes. Idempotent.

        A live engine with the same base is left alone and keeps its generation; a dead one, or one with
        another base, is replaced and gets a new generation.

        Args:
            base: folder with ``config.json``, tokenizer and safetensors.
            name: the base model's name for people; the engine answers to ``BASE`` whatever it is.

        Raises:
            InvalidRequest: the folder is not a model this engine can run (code ``unsupported_model``).
            Unavailable: it did not come up in time, or died while starting (code ``engine_start_failed``).
        """
        ...

    async def observe(self) -> EngineStatus:
        """What is true now. Returns within seconds, never raises, starts nothing."""
        ...

    async def load(self, name: str, directory: Path) -> None:
        """Make the adapter in ``directory`` answer to ``name``. Blocks until it does; running requests go on.

        Create-only: names are content digests and mean the same weights for ever. The same name and
        directory again is success. ``directory`` (PEFT format) must stay until ``unload`` returned and
        the engine drained.

        Raises:
            Conflict: the name is taken by another directory (code ``adapter_conflict``).
            InvalidRequest: the adapter does not fit: its files, targets, shapes, rank or values
                (code ``invalid_adapter``). Permanent; do not retry.
            Unavailable: the engine is not running or does not answer (code ``engine_unreachable``).
        """
        ...

    async def unload(self, name: str) -> None:
        """Forget ``name``. Returns at once. Requests that run finish on the old weights; new ones get 404.

        Idempotent: a name that is not loaded is success, and so is an engine that is not running.

        Raises:
            Unavailable: the engine runs but does not answer (code ``engine_unreachable``).
        """
        ...

    async def adapters(self) -> set[str]:
        """Names that answer now, without the base. Empty when the engine is not running.

        Raises:
            Unavailable: the engine runs but does not answer (code ``engine_unreachable``).
        """
        ...

    async def drain(self, seconds: float) -> bool:
        """Refuse new requests and wait up to ``seconds`` for the running ones; True when none is left.

        An engine stays drained until it is destroyed. True when the engine is not running.
        """
        ...

    async def destroy(self) -> None:
        """End the engine and everything it holds. Blocks until it is gone; running requests are cut off.

        Idempotent: absent is success.
        """
        ...

    async def metrics(self) -> EngineMetrics:
        """Load and counters of the running engine.

        Raises:
            Unavailable: the engine is not running or does not answer (code ``engine_unreachable``).
        """
        ...
