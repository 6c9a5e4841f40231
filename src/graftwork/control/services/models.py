"""Model names: what a project may send as ``model``."""

from __future__ import annotations

from dataclasses import dataclass

from graftwork.billing import current_prices, ensure_prices
from graftwork.control.bases import Bases
from graftwork.control.bell import Bell
from graftwork.control.names import fine_tuned_model
from graftwork.control.prices import listed
from graftwork.control.reconcilers.endpoints import READY
from graftwork.control.services.adapters import drop_version
from graftwork.control.services.job_views import organization_of
from graftwork.control.views import ModelView
from graftwork.core.clock import Clock
from graftwork.core.errors import Conflict, Forbidden, NotFound
from graftwork.core.nouns import Checkpoint, Job, Placement, Version
from graftwork.core.specs import LoraSpec, TrainingOptions
from graftwork.core.states import PlacementState
from graftwork.registry import parse_reference, resolve
from graftwork.store import Store, Tx

OWNER = "graftwork"
_CKPT = ":ckpt-step-"


class ModelsService:
    """Base models, the project's versions, and the project's checkpoints, by the names that call them."""

    def __init__(self, store: Store, bases: Bases, clock: Clock, bell: Bell) -> None:
        self._store = store
        self._bases = bases
        self._clock = clock
        self._bell = bell

    async def list(self, project_id: str) -> list[ModelView]:
        """Everything the project may call: base models, then its versions, newest first."""
        async with self._store.read() as tx:
            views = [await self._base(tx, entry.name) for entry in self._bases.list()]
            organization = await organization_of(tx, project_id)
            versions = [
                await _version(tx, version, adapter.name, organization.id)
                for adapter in await tx.adapters.list(project_id)
                for version in await tx.versions.list(adapter.id)
                if version.deleted_at is None
            ]
        return views + sorted(versions, key=lambda view: view.created_at, reverse=True)

    async def get(self, project_id: str, name: str) -> ModelView:
        """One name: a base model, or a version (``ft:…``, ``support``, ``support@3``) or checkpoint.

        Raises:
            NotFound: nothing of that name in this project (``model_not_found``).
        """
        is_base = not name.startswith("ft:") and await self.offer(name)
        async with self._store.read() as tx:
            if is_base:
                return await self._base(tx, name)
            organization = await organization_of(tx, project_id)
            version = await _find_version(tx, project_id, name)
            if version is not None:
                adapter = await tx.adapters.get(project_id, version.adapter_id)
                return await _version(tx, version, adapter.name if adapter else "", organization.id)
            found = await _find_checkpoint(tx, project_id, name)
            if found is None:
                raise no_model(name)
            return await _checkpoint(tx, found, name, organization.id)

    async def delete(self, project_id: str, name: str) -> ModelView:
        """Delete a fine-tuned model: its version is marked deleted and unloaded.

        Raises:
            NotFound: nothing of that name in this project.
            Forbidden: it is a base model, or a checkpoint.
            Conflict: an alias points at it.
        """
        view = await self.get(project_id, name)
        if view.kind != "version":
            raise Forbidden(
                f"{name!r} is a {view.kind} model and cannot be deleted.",
                fix="Only fine-tuned models (ft:…) can be.",
                code="model_not_deletable",
            )
        async with self._store.begin() as tx:
            version = await tx.versions.by_model(project_id, view.name)
            if version is None:
                raise no_model(name)
            await drop_version(tx, version, self._clock.now())
        self._bell.ring()
        return view

    async def offer(self, name: str) -> bool:
        """Whether there is a base model of that name here; one without prices gets its list prices."""
        try:
            entry = await self._bases.get(name)
        except NotFound:
            return False
        async with self._store.read() as tx:
            known = entry.name in (await current_prices(tx)).models
        if not known:
            async with self._store.begin() as tx:
                await ensure_prices(tx, {entry.name: listed(entry)})
        return True

    async def _base(self, tx: Tx, name: str) -> ModelView:
        endpoint = await tx.endpoints.by_base(name)
        return ModelView(
            name=name,
            kind="base",
            created_at=0.0 if endpoint is None else endpoint.created_at,
            owner=OWNER,
            ready=endpoint is not None and endpoint.state == READY,
            reason=None if endpoint is None else endpoint.message,
        )


def no_model(name: str) -> NotFound:
    """The error for a model name that means nothing in the project."""
    return NotFound(
        f"No such model: {name!r}.",
        fix="List the models to see what can be called.",
        code="model_not_found",
        param="model",
    )


async def _version(tx: Tx, version: Version, adapter: str, organization: str) -> ModelView:
    placement = await tx.placements.by_weights(version.weights)
    return ModelView(
        name=version.model,
        kind="version",
        created_at=version.created_at,
        owner=organization,
        ready=await _is_ready(tx, placement),
        reason=None if placement is None else placement.reason,
        version=f"{adapter}@{version.number}",
    )


async def _checkpoint(tx: Tx, checkpoint: Checkpoint, name: str, organization: str) -> ModelView:
    placement = await tx.placements.by_weights(checkpoint.weights) if checkpoint.weights else None
    return ModelView(
        name=name,
        kind="checkpoint",
        created_at=checkpoint.created_at,
        owner=organization,
        ready=await _is_ready(tx, placement),
        reason=None if placement is None else placement.reason,
    )


@dataclass(frozen=True, slots=True)
class Start:
    """An adapter that a run may begin with."""

    model: str
    """Its own name, whatever alias was asked for."""
    weights: str
    """Digest of its files."""
    base: str
    lora: LoraSpec


async def find_start(tx: Tx, project_id: str, name: str) -> Start | None:
    """The version (``ft:…``, ``support``, ``support@3``) or checkpoint that ``name`` is in this project; None
    for nothing of that name.

    Raises:
        Conflict: ``start_not_usable``, it is one, but its weights or its shape are not known.
    """
    version = await _find_version(tx, project_id, name)
    checkpoint = await _find_checkpoint(tx, project_id, name) if version is None else None
    found = version or checkpoint
    if found is None:
        return None
    weights = await tx.weights.get(found.weights) if found.weights else None
    job = await tx.jobs.get(project_id, found.job_id)
    if weights is None or job is None:
        raise Conflict(
            f"{name!r} cannot be continued: its weights are not here.",
            fix="Choose another version or checkpoint.",
            code="start_not_usable",
        )
    lora = TrainingOptions.model_validate(job.asked["options"]).lora
    return Start(version.model if version else name, weights.digest, weights.base, lora)


async def _find_version(tx: Tx, project_id: str, name: str) -> Version | None:
    if not name.startswith("ft:") and parse_reference(name) is None:
        return None
    try:
        return await resolve(tx, project_id, name)
    except NotFound:
        return None


async def _find_checkpoint(tx: Tx, project_id: str, name: str) -> Checkpoint | None:
    model, mark, step = name.rpartition(_CKPT)
    if not mark or not step.isdigit():
        return None
    job = await _job_named(tx, project_id, model)
    if job is None:
        return None
    return await tx.checkpoints.at_step(job.id, int(step))


async def _job_named(tx: Tx, project_id: str, model: str) -> Job | None:
    organization = await organization_of(tx, project_id)
    found = await tx.jobs.by_tail(project_id, model.rpartition(":")[2])
    return next((job for job in found if fine_tuned_model(job, organization) == model), None)


async def _is_ready(tx: Tx, placement: Placement | None) -> bool:
    if placement is None or not placement.wanted or placement.state is not PlacementState.READY:
        return False
    endpoint = await tx.endpoints.get(placement.endpoint_id)
    return endpoint is not None and endpoint.state == READY and endpoint.generation == placement.generation
