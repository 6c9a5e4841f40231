"""All that the gateway needs to answer requests, read in a few queries and used without the database."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import func, or_, select

from graftwork.core.ids import checkpoint_model
from graftwork.core.nouns import Json, Keeping
from graftwork.core.states import PlacementState
from graftwork.store import tables as t
from graftwork.store.prices import Prices
from graftwork.store.session import Session, columns


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyEntry:
    """A live API key."""

    id: str
    project_id: str
    digest: str
    expires_at: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ProjectEntry:
    """A project, its organization's name, and its money in micro-dollars."""

    id: str
    name: str
    organization_id: str
    organization: str
    budget: int | None
    spent: int
    """Settled and open at the time of the snapshot; spending does not raise the generation."""
    keeping: Keeping | None = None
    """What it opted to have kept of its requests."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VersionEntry:
    """A live version, found by its ``ft:…`` name, by adapter and number, or through an alias."""

    id: str
    project_id: str
    adapter_id: str
    adapter: str
    number: int
    model: str
    base: str
    weights: str
    created_at: float


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckpointEntry:
    """A callable checkpoint of a finished job."""

    id: str
    project_id: str
    job_id: str
    step: int
    model: str
    base: str
    weights: str
    created_at: float


@dataclass(frozen=True, slots=True, kw_only=True)
class EndpointEntry:
    """Where a base model is served."""

    id: str
    base: str
    state: str
    url: str | None
    token: str | None
    generation: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PlacementEntry:
    """Some weights on their endpoint. Callable only if ``ready``."""

    id: str
    project_id: str
    weights: str
    state: PlacementState
    generation: int
    reason: str | None
    endpoint: EndpointEntry

    @property
    def ready(self) -> bool:
        """Whether requests may go there: loaded and probed in the engine that runs now."""
        live = self.endpoint.state == "ready" and self.generation == self.endpoint.generation
        return live and self.state is PlacementState.READY


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """The store as the gateway sees it, at one generation."""

    generation: int
    taken_at: float
    keys: dict[str, KeyEntry]
    """By lookup."""
    projects: dict[str, ProjectEntry]
    """By id."""
    models: dict[str, VersionEntry]
    """By ``ft:…`` name."""
    versions: dict[tuple[str, str, int], VersionEntry]
    """By (project id, adapter name, number)."""
    aliases: dict[tuple[str, str, str], VersionEntry]
    """By (project id, adapter name, alias)."""
    checkpoints: dict[str, CheckpointEntry]
    """By ``…:ckpt-step-n`` name."""
    endpoints: dict[str, EndpointEntry]
    """By base model."""
    placements: dict[str, PlacementEntry]
    """By weights; only wanted ones."""
    prices: Json


async def read_snapshot(session: Session) -> Snapshot:
    """Read the snapshot. In a ``read`` transaction all of it is of one generation."""
    now = await session.now()
    versions = await _versions(session)
    by_id = {version.id: version for version in versions}
    endpoints = await _endpoints(session)
    return Snapshot(
        generation=int(await session.scalar(select(t.generation.c.value)) or 0),
        taken_at=now,
        keys=await _keys(session, now),
        projects=await _projects(session),
        models={version.model: version for version in versions},
        versions={(v.project_id, v.adapter, v.number): v for v in versions},
        aliases=await _aliases(session, by_id),
        checkpoints=await _checkpoints(session),
        endpoints={endpoint.base: endpoint for endpoint in endpoints.values()},
        placements=await _placements(session, endpoints),
        prices=await Prices(session).current(),
    )


async def _keys(session: Session, now: float) -> dict[str, KeyEntry]:
    keys = t.api_keys.c
    unexpired = or_(keys.expires_at.is_(None), keys.expires_at > now)
    live = select(keys.lookup, keys.id, keys.project_id, keys.digest, keys.expires_at)
    rows = await session.rows(live.where(keys.revoked_at.is_(None), unexpired))
    return {
        row.lookup: KeyEntry(
            id=row.id, project_id=row.project_id, digest=row.digest, expires_at=row.expires_at
        )
        for row in rows
    }


async def _projects(session: Session) -> dict[str, ProjectEntry]:
    joined = t.projects.join(t.organizations).outerjoin(t.balances)
    statement = select(
        t.projects.c.id,
        t.projects.c.name,
        t.projects.c.organization_id,
        t.organizations.c.name.label("organization"),
        t.projects.c.budget,
        func.coalesce(t.balances.c.spent, 0).label("spent"),
    ).select_from(joined)
    opted = {
        row.project_id: Keeping(**row._mapping)
        for row in await session.rows(select(*columns(Keeping, t.keeping)).where(t.keeping.c.mode != "off"))
    }
    return {
        row.id: ProjectEntry(**row._mapping, keeping=opted.get(row.id))
        for row in await session.rows(statement)
    }


async def _versions(session: Session) -> list[VersionEntry]:
    v = t.versions.c
    statement = (
        select(
            v.id,
            v.project_id,
            v.adapter_id,
            t.adapters.c.name.label("adapter"),
            v.number,
            v.model,
            t.adapters.c.base,
            v.weights,
            v.created_at,
        )
        .join_from(t.versions, t.adapters, t.adapters.c.id == v.adapter_id)
        .where(v.deleted_at.is_(None))
    )
    return [VersionEntry(**row._mapping) for row in await session.rows(statement)]


async def _aliases(
    session: Session, versions: dict[str, VersionEntry]
) -> dict[tuple[str, str, str], VersionEntry]:
    rows = await session.rows(select(t.aliases.c.name, t.aliases.c.version_id))
    found = ((row.name, versions[row.version_id]) for row in rows if row.version_id in versions)
    return {(version.project_id, version.adapter, name): version for name, version in found}


async def _checkpoints(session: Session) -> dict[str, CheckpointEntry]:
    c, j = t.checkpoints.c, t.jobs.c
    statement = (
        select(c.id, j.project_id, c.job_id, c.step, j.base, c.weights, c.created_at, j.fine_tuned_model)
        .join_from(t.checkpoints, t.jobs, j.id == c.job_id)
        .where(c.weights.is_not(None), j.fine_tuned_model.is_not(None))
    )
    entries = (
        CheckpointEntry(
            id=row.id,
            project_id=row.project_id,
            job_id=row.job_id,
            step=row.step,
            model=checkpoint_model(row.fine_tuned_model, row.step),
            base=row.base,
            weights=row.weights,
            created_at=row.created_at,
        )
        for row in await session.rows(statement)
    )
    return {entry.model: entry for entry in entries}


async def _endpoints(session: Session) -> dict[str, EndpointEntry]:
    e = t.endpoints.c
    rows = await session.rows(select(e.id, e.base, e.state, e.url, e.token, e.generation))
    return {row.id: EndpointEntry(**row._mapping) for row in rows}


async def _placements(session: Session, endpoints: dict[str, EndpointEntry]) -> dict[str, PlacementEntry]:
    p = t.placements.c
    statement = select(p.id, p.project_id, p.weights, p.state, p.generation, p.reason, p.endpoint_id)
    return {
        row.weights: PlacementEntry(
            id=row.id,
            project_id=row.project_id,
            weights=row.weights,
            state=row.state,
            generation=row.generation,
            reason=row.reason,
            endpoint=endpoints[row.endpoint_id],
        )
        for row in await session.rows(statement.where(p.wanted).order_by(p.id))
    }
