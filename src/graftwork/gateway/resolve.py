"""From a model name in a request to weights on an engine, within the key's own project.

    support                     the adapter's production alias
    support@production          an alias
    support@3                   a version by number
    ft:seedling:org:support:x   a version by its OpenAI name; with ``:ckpt-step-n`` a checkpoint of it
    seedling                    a base model

A name means the same weights or nothing: an adapter that cannot answer now is waited for, then refused. It is
never answered by its base model (law 7 of the design).
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from graftwork.core.errors import NotFound, Unavailable
from graftwork.core.states import PlacementState
from graftwork.gateway.snapshot import Snapshots
from graftwork.store import Snapshot, Store
from graftwork.store.snapshot import EndpointEntry, VersionEntry

DEFAULT_ALIAS = "production"
"""What an adapter's bare name means."""
BASE = "base"
"""The name by which every engine answers as its base model."""
RETRY_AFTER = 5
"""Seconds a caller is asked to stay away from a model that is not ready."""
Learn = Callable[[str], Awaitable[bool]]
"""Gives a base model that may be used here its price; whether there is such a base model. May take long."""


def engine_name(digest: str) -> str:
    """The name of a set of weights inside an engine: 32 hex digits of its digest."""
    return digest.removeprefix("sha256:")[:32]


@dataclass(frozen=True, slots=True)
class Target:
    """What a name means."""

    name: str
    """The canonical name: ``ft:…`` or the base model's."""
    base: str
    weights: str | None
    """Digest; None for the base model."""
    version: str | None
    """``support@3`` for a version, None otherwise."""
    version_id: str | None

    @property
    def engine_model(self) -> str:
        """What the engine calls it."""
        return BASE if self.weights is None else engine_name(self.weights)


@dataclass(frozen=True, slots=True)
class Live:
    """Where a target is answered now."""

    url: str
    token: str | None


def find(snapshot: Snapshot, project_id: str, model: str) -> Target | None:
    """The target of a name in a project; None where the project has nothing of that name."""
    if model in snapshot.endpoints or model in base_models(snapshot):
        return Target(name=model, base=model, weights=None, version=None, version_id=None)
    if model.startswith("ft:"):
        checkpoint = snapshot.checkpoints.get(model)
        if checkpoint is not None and checkpoint.project_id == project_id:
            return Target(
                name=model, base=checkpoint.base, weights=checkpoint.weights, version=None, version_id=None
            )
        version = snapshot.models.get(model)
    else:
        version = _version(snapshot, project_id, model)
    if version is None or version.project_id != project_id:
        return None
    return Target(
        name=version.model,
        base=version.base,
        weights=version.weights,
        version=f"{version.adapter}@{version.number}",
        version_id=version.id,
    )


def base_models(snapshot: Snapshot) -> set[str]:
    """Base models that have a price: the ones that may be called."""
    return set(snapshot.prices.get("models", {}))


def _version(snapshot: Snapshot, project_id: str, model: str) -> VersionEntry | None:
    name, at, which = model.partition("@")
    if at and which.isascii() and which.isdigit() and len(which) < 10:
        return snapshot.versions.get((project_id, name, int(which)))
    if at and not which:
        return None
    return snapshot.aliases.get((project_id, name, which or DEFAULT_ALIAS))


def live(snapshot: Snapshot, target: Target) -> Live | None:
    """Where the target answers, if it is ready."""
    if target.weights is None:
        endpoint: EndpointEntry | None = snapshot.endpoints.get(target.base)
        if endpoint is None or endpoint.state != "ready":
            return None
    else:
        placement = snapshot.placements.get(target.weights)
        if placement is None or not placement.ready or placement.endpoint.base != target.base:
            return None
        endpoint = placement.endpoint
    return None if endpoint.url is None else Live(endpoint.url, endpoint.token)


class Resolver:
    """Finds targets, has them placed, and waits for them."""

    def __init__(
        self, store: Store, snapshots: Snapshots, *, engine: str, patience: float, learn: Learn | None = None
    ) -> None:
        self._store = store
        self._snapshots = snapshots
        self._engine = engine
        self._patience = patience
        self._learn = learn
        self._learning: dict[str, asyncio.Task[bool]] = {}

    async def target(self, project_id: str, model: str) -> Target:
        """What a name means; a miss is looked up once more in a fresh snapshot.

        A base model that nobody has used yet, and that has no price therefore, is made known.

        Raises:
            NotFound: nothing of that name in this project (``model_not_found``).
            Unavailable: it is a base model that is still being made known (``model_not_ready``).
        """
        found = find(self._snapshots.current, project_id, model)
        if found is None:
            await self._snapshots.after_miss()
            found = find(self._snapshots.current, project_id, model)
        base = model if found is None else found.base
        if base not in base_models(self._snapshots.current) and await self._learned(base):
            found = find(self._snapshots.current, project_id, model)
        if found is None:
            raise _unknown(self._snapshots.current, project_id, model)
        return found

    async def _learned(self, name: str) -> bool:
        """Whether the name is a base model after all; asked once, however many wait for the answer."""
        if self._learn is None or name.startswith("ft:") or "@" in name:
            return False
        task = self._learning.get(name)
        if task is None:
            task = self._learning[name] = asyncio.ensure_future(self._learn(name))
            task.add_done_callback(lambda _: self._learning.pop(name, None))
        await asyncio.wait({task}, timeout=self._patience)
        if not task.done():
            target = Target(name=name, base=name, weights=None, version=None, version_id=None)
            raise _not_ready(target, None)
        if not task.result():
            return False
        await self._snapshots.refresh()
        return True

    def now(self, target: Target) -> Live | None:
        """Where the target answers, if it is ready."""
        return live(self._snapshots.current, target)

    async def ready(self, project_id: str, target: Target) -> Live:
        """Ask for a target that is not ready, and wait for it: where it answers.

        Raises:
            Unavailable: not ready after ``patience`` seconds, or its placement failed (``model_not_ready``).
        """
        await self._want(project_id, target)
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._patience
        while (here := self.now(target)) is None:
            reason = _failure(self._snapshots.current, target)
            left = deadline - loop.time()
            if reason is not None or left <= 0:
                raise _not_ready(target, reason)
            await self._snapshots.changed(left)
        return here

    async def _want(self, project_id: str, target: Target) -> None:
        snapshot = self._snapshots.current
        placed = target.weights is None or target.weights in snapshot.placements
        if placed and target.base in snapshot.endpoints:
            return
        async with self._store.begin() as tx:
            now = await tx.now()
            endpoint = await tx.endpoints.ensure(target.base, self._engine, now)
            if target.weights is not None:
                await tx.placements.ensure(endpoint.id, project_id, target.weights, now)
        await self._snapshots.refresh()


def _unknown(snapshot: Snapshot, project_id: str, model: str) -> NotFound:
    """Others' names and names of nothing get the same words; the project's own adapter gets better ones."""
    numbers = [n for project, adapter, n in snapshot.versions if (project, adapter) == (project_id, model)]
    if numbers:
        return NotFound(
            f"No version of the adapter {model!r} is in production.",
            fix=f"Promote one first, or ask for one by number: {model}@{max(numbers)}.",
            code="model_not_found",
            param="model",
        )
    return NotFound(
        f"The model {model[:128]!r} does not exist or you do not have access to it.",
        fix="List the models to see what can be called.",
        code="model_not_found",
        param="model",
    )


def _failure(snapshot: Snapshot, target: Target) -> str | None:
    placement = snapshot.placements.get(target.weights) if target.weights is not None else None
    if placement is not None and placement.state is PlacementState.FAILED:
        return placement.reason or "it could not be loaded"
    return None


def _not_ready(target: Target, reason: str | None) -> Unavailable:
    why = f": {reason}" if reason else ""
    return Unavailable(
        f"The model {target.version or target.name!r} is not ready{why}.",
        fix="Try again in some seconds." if reason is None else "See the placement of this version.",
        code="model_not_ready",
        param="model",
        details={"retry_after": RETRY_AFTER},
    )
