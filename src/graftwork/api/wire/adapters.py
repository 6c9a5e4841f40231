"""Adapters, versions, aliases and promotions on the wire."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field

from graftwork.api.wire.base import Body, Wire
from graftwork.api.wire.jobs import gate_wire
from graftwork.control.views import AdapterView, VersionView
from graftwork.core.nouns import Alias, Placement

Json = dict[str, Any]
AliasName = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_-]{0,63}$")]


class PromoteBody(Body):
    """Point an alias at a version."""

    version: Annotated[int, Field(ge=1)]
    alias: AliasName = "production"
    expected_generation: Annotated[int, Field(ge=0)] | None = None
    """The alias generation last seen (0: it did not exist); leave out to take the present one."""
    force: bool = False
    """Although the gate did not pass; needs ``reason``."""
    reason: Annotated[str, Field(max_length=1000)] = ""


class RollbackBody(Body):
    """Point an alias back at where it pointed before."""

    alias: AliasName = "production"
    expected_generation: Annotated[int, Field(ge=0)] | None = None
    reason: Annotated[str, Field(max_length=1000)] = ""


class AliasWire(Wire):
    """Where an alias points."""

    name: str
    version: int
    generation: int
    updated_at: float


class MoveWire(Wire):
    """One move of an alias."""

    alias: str
    version: int
    from_version: int | None
    generation: int
    actor: str
    reason: str
    at: float


class PlacementWire(Wire):
    """Where a version is served, and what the probe measured there."""

    state: str
    reason: str | None
    probe: Json | None
    ready_at: float | None


class VersionWire(Wire):
    """One version."""

    name: str
    adapter: str
    number: int
    id: str
    model: str
    job_id: str
    weights: str
    verdict: str
    created_at: float
    aliases: list[str]
    placement: PlacementWire | None
    gate: Json | None


class VersionReceipt(VersionWire):
    """One version with all that is known of it."""

    manifest: Json
    """Files by sha256, and the lineage receipt."""
    evaluation: Json | None
    """The whole report: scores, statistics, samples."""


class AdapterWire(Wire):
    """One adapter; versions and moves newest first."""

    id: str
    name: str
    base: str
    created_at: float
    aliases: list[AliasWire]
    versions: list[VersionWire]
    moves: list[MoveWire]


class VersionDeleted(Wire):
    """A version is gone; its receipt is kept."""

    name: str
    id: str
    deleted: bool = True


def adapter_wire(view: AdapterView) -> AdapterWire:
    """An adapter for its owner."""
    adapter = view.adapter
    numbers = {v.version.id: v.version.number for v in view.versions}
    return AdapterWire(
        id=adapter.id,
        name=adapter.name,
        base=adapter.base,
        created_at=adapter.created_at,
        aliases=[alias_wire(alias, numbers[alias.version_id]) for alias in view.aliases],
        versions=[VersionWire(**_version(v)) for v in view.versions],
        moves=[
            MoveWire(
                alias=move.alias,
                version=move.to_version,
                from_version=move.from_version,
                generation=move.generation,
                actor=move.actor,
                reason=move.reason,
                at=move.at,
            )
            for move in view.moves
        ],
    )


def alias_wire(alias: Alias, number: int) -> AliasWire:
    """An alias for its owner."""
    return AliasWire(
        name=alias.name, version=number, generation=alias.generation, updated_at=alias.updated_at
    )


def receipt_wire(view: VersionView) -> VersionReceipt:
    """A version with its receipt."""
    report = None if view.evaluation is None else view.evaluation.report
    return VersionReceipt(**_version(view), manifest=view.version.manifest, evaluation=report)


def _version(view: VersionView) -> Json:
    version = view.version
    return {
        "name": view.name,
        "adapter": view.name.rpartition("@")[0],
        "number": version.number,
        "id": version.id,
        "model": version.model,
        "job_id": version.job_id,
        "weights": version.weights,
        "verdict": str(version.verdict),
        "created_at": version.created_at,
        "aliases": list(view.aliases),
        "placement": None if view.placement is None else _placement(view.placement),
        "gate": gate_wire(view.evaluation),
    }


def _placement(placement: Placement) -> PlacementWire:
    return PlacementWire(
        state=str(placement.state),
        reason=placement.reason,
        probe=placement.probe,
        ready_at=placement.ready_at,
    )
