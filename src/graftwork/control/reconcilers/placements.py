"""Placements: wanted weights are loaded, proven through the serving path, and only then ready (law 7)."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from graftwork.artifacts import Artifacts
from graftwork.control.bell import Bell
from graftwork.control.reconcilers.base import LeaseLost, Pace, Reconciler, Rows
from graftwork.control.reconcilers.endpoints import READY, Engines
from graftwork.core.clock import Clock
from graftwork.core.errors import GraftworkError, InvalidRequest, PlatformError, Unavailable
from graftwork.core.nouns import Endpoint, Json, Placement, Weights
from graftwork.core.states import PlacementState
from graftwork.runs.documents import Probe
from graftwork.serving.client import EngineClient
from graftwork.serving.port import BASE, Engine, engine_name
from graftwork.serving.probe import agreement, effect
from graftwork.store import Claim, Store, Tx

REST = 86_400.0
"""Before a placement that needs nothing is looked at again, unless it is poked."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """Seconds between two looks at a placement."""

    ready: float = 30.0
    """An engine may lose an adapter without a word."""
    engine: float = 2.0
    """While its engine is not up."""
    failed: float = 300.0
    """Before weights that failed are tried again."""
    unloaded: float = 60.0
    """Before the folder of unloaded weights is removed."""


@dataclass(frozen=True, slots=True)
class Proof:
    """What the two checks of law 7 found."""

    ok: bool
    reason: str
    numbers: Json


class PlacementReconciler(Reconciler[Placement]):
    """Makes engines hold exactly the wanted weights.

    Args:
        folder: where adapters are laid out for engines, one directory for each digest.
        connect: a client of an endpoint's engine.
        bound: largest difference to the trainer's log-probabilities that is allowed, in nats.
    """

    name = "placements"

    def __init__(
        self,
        store: Store,
        artifacts: Artifacts,
        engines: Engines,
        *,
        folder: Path,
        connect: Callable[[Endpoint], EngineClient],
        bound: float,
        clock: Clock,
        bell: Bell,
        pace: Pace,
        owner: str,
        patience: Patience | None = None,
    ) -> None:
        super().__init__(store, clock, bell, pace, owner)
        self._artifacts = artifacts
        self._engines = engines
        self._folder = folder
        self._connect = connect
        self._bound = bound
        self._patience = patience or Patience()

    def rows(self, tx: Tx) -> Rows[Placement]:
        """Placements."""
        return tx.placements

    def key(self, item: Placement) -> str:
        """The placement's id."""
        return item.id

    async def work(self, claim: Claim[Placement]) -> float:
        """Bring one placement to where it is wanted; seconds until the next look."""
        placement = claim.item
        async with self.store.read() as tx:
            endpoint = await tx.endpoints.get(placement.endpoint_id)
            weights = await tx.weights.get(placement.weights)
        if endpoint is None or weights is None:
            raise PlatformError(
                f"Placement {placement.id} has no endpoint or weights.", code="placement_broken"
            )
        engine = self._engines.of(endpoint)
        if not placement.wanted:
            return await self._remove(claim, engine)
        if endpoint.state != READY:
            if placement.state in {PlacementState.READY, PlacementState.LOADING}:
                await self._apply(claim, state=PlacementState.PENDING, reason="Its engine is starting.")
            return self._patience.engine
        try:
            if await self._holds(engine, endpoint, placement):
                return self._patience.ready
            return await self._load(claim, engine, endpoint, weights)
        except Unavailable as error:
            await self._apply(claim, state=PlacementState.PENDING, reason=error.message)
            return self._patience.engine

    async def _holds(self, engine: Engine, endpoint: Endpoint, placement: Placement) -> bool:
        if placement.state is not PlacementState.READY or placement.generation != endpoint.generation:
            return False
        return engine_name(placement.weights) in await engine.adapters()

    async def _load(
        self, claim: Claim[Placement], engine: Engine, endpoint: Endpoint, weights: Weights
    ) -> float:
        generation = endpoint.generation
        claim = await self._apply(claim, state=PlacementState.LOADING, generation=generation, reason=None)
        name = engine_name(weights.digest)
        try:
            directory = await self._artifacts.materialize(weights.files, self._folder / weights.digest)
            await engine.load(name, directory)
            proof = await self._prove(endpoint, name, weights)
        except Unavailable:
            raise
        except GraftworkError as error:
            proof = Proof(False, error.text, {})
        if not proof.ok:
            await engine.unload(name)  # what is not proven does not stay where it could answer
            await self._apply(claim, state=PlacementState.FAILED, reason=proof.reason, probe=proof.numbers)
            return self._patience.failed
        await self._apply(
            claim,
            state=PlacementState.READY,
            reason=None,
            probe=proof.numbers,
            ready_at=self.clock.now(),
        )
        return self._patience.ready

    async def _prove(self, endpoint: Endpoint, name: str, weights: Weights) -> Proof:
        """The adapter changes the output, and computes what the trainer computed: both as served."""
        probes = [Probe.model_validate(probe) for probe in weights.probes]
        client = self._connect(endpoint)
        try:
            served = [await client.score(name, probe.tokens) for probe in probes]
            base = [await client.score(BASE, probe.tokens) for probe in probes]
        finally:
            await client.aclose()
        try:
            seen = effect(probes, served, base)
            agreed = agreement(probes, served, self._bound, base)
        except ValueError as error:
            raise InvalidRequest(
                f"The probes do not fit the engine's answer: {error}.", code="probe"
            ) from error
        reasons = [check.reason for check in (seen, agreed) if not check.ok]
        return Proof(not reasons, " ".join(reasons), {"effect": seen.json(), "agreement": agreed.json()})

    async def _remove(self, claim: Claim[Placement], engine: Engine) -> float:
        """Unload; the folder goes when the engine has let go of it for a while."""
        name, folder = engine_name(claim.item.weights), self._folder / claim.item.weights
        if claim.item.state is not PlacementState.REMOVING:
            await engine.unload(name)
            await self._apply(claim, state=PlacementState.REMOVING, reason="No longer wanted.")
            return self._patience.unloaded
        if name in await engine.adapters():
            await engine.unload(name)
            return self._patience.engine
        if folder.exists():
            await asyncio.to_thread(shutil.rmtree, folder)
        return REST

    async def _apply(self, claim: Claim[Placement], **changes: Any) -> Claim[Placement]:
        async with self.store.begin() as tx:
            if not await tx.placements.apply(claim, **changes):
                raise LeaseLost
        self.bell.ring()
        return claim.updated(**changes)
