"""Adapters: their versions, the aliases that point at them, promotion and rollback."""

from __future__ import annotations

from typing import IO

from graftwork.artifacts import Artifacts, zipped
from graftwork.control.bell import Bell
from graftwork.control.services.adapter_views import adapter_view, version_view
from graftwork.control.views import AdapterView, VersionView
from graftwork.core.clock import Clock
from graftwork.core.errors import NotFound
from graftwork.core.nouns import Alias, Version
from graftwork.registry import DEFAULT_ALIAS, find_adapter, promote, resolve, rollback
from graftwork.store import Store, Tx


class AdaptersService:
    """A project's adapters."""

    def __init__(self, store: Store, artifacts: Artifacts, clock: Clock, bell: Bell) -> None:
        self._store = store
        self._artifacts = artifacts
        self._clock = clock
        self._bell = bell

    async def list(self, project_id: str) -> list[AdapterView]:
        """All adapters with their versions, by name."""
        async with self._store.read() as tx:
            return [await adapter_view(tx, adapter) for adapter in await tx.adapters.list(project_id)]

    async def show(self, project_id: str, name: str) -> AdapterView:
        """One adapter: versions, aliases, moves.

        Raises:
            NotFound: no such adapter in this project.
        """
        async with self._store.read() as tx:
            return await adapter_view(tx, await find_adapter(tx, project_id, name))

    async def version(self, project_id: str, reference: str) -> VersionView:
        """One version with its receipt (``version.manifest``).

        ``reference`` is ``support@3``, ``support@production``, ``support``, an ``ft:`` name or a version id.

        Raises:
            NotFound: nothing of that name in this project.
        """
        async with self._store.read() as tx:
            return await version_view(tx, await resolve(tx, project_id, reference))

    async def download(self, project_id: str, reference: str) -> tuple[VersionView, IO[bytes], int]:
        """A version, a zip of exactly its files (the caller closes it), and the zip's size in bytes.

        Raises:
            NotFound: nothing of that name in this project.
            PlatformError: a file of the version is missing or damaged.
        """
        view = await self.version(project_id, reference)
        return view, *await zipped(self._artifacts, view.version.manifest["files"])

    async def promote(
        self,
        project_id: str,
        name: str,
        number: int,
        *,
        actor: str,
        reason: str = "",
        alias: str = DEFAULT_ALIAS,
        force: bool = False,
        expected_generation: int | None = None,
    ) -> Alias:
        """Point ``alias`` at version ``number``, by compare-and-set.

        ``expected_generation`` is the alias generation the caller last saw (0: it did not exist); None takes
        the present one. A version whose gate did not pass needs ``force`` and a ``reason``.

        Raises:
            NotFound: no such adapter or version.
            InvalidRequest: ``force`` without a reason.
            Conflict: the gate did not pass, or the alias moved meanwhile.
        """
        async with self._store.begin() as tx:
            adapter = await find_adapter(tx, project_id, name)
            version = await tx.versions.by_number(adapter.id, number)
            if version is None or version.deleted_at is not None:
                raise NotFound(
                    f"There is no version {name}@{number}.",
                    fix="Show the adapter to see its versions.",
                    code="version_not_found",
                )
            moved = await promote(
                tx,
                project_id,
                adapter,
                version,
                alias=alias,
                expected_generation=expected_generation,
                actor=actor,
                reason=reason,
                at=self._clock.now(),
                force=force,
            )
        self._bell.ring()
        return moved

    async def rollback(
        self,
        project_id: str,
        name: str,
        *,
        actor: str,
        reason: str = "",
        alias: str = DEFAULT_ALIAS,
        expected_generation: int | None = None,
    ) -> Alias:
        """Point ``alias`` back at the version it pointed at before its last move.

        Raises:
            NotFound: no such adapter, or it has no such alias.
            Conflict: there is nothing earlier to go back to, or the alias moved meanwhile.
        """
        async with self._store.begin() as tx:
            moved = await rollback(
                tx,
                project_id,
                await find_adapter(tx, project_id, name),
                alias=alias,
                expected_generation=expected_generation,
                actor=actor,
                reason=reason or "rollback",
                at=self._clock.now(),
            )
        self._bell.ring()
        return moved

    async def delete_version(self, project_id: str, reference: str) -> Version:
        """Delete a version: its names stop answering; its receipt is kept.

        Raises:
            NotFound: nothing of that name in this project.
            Conflict: an alias points at it.
        """
        async with self._store.begin() as tx:
            version = await resolve(tx, project_id, reference)
            await drop_version(tx, version, self._clock.now())
        self._bell.ring()
        return version


async def drop_version(tx: Tx, version: Version, at: float) -> None:
    """Mark a version deleted, and let its weights be unloaded unless another version has the same.

    Raises:
        Conflict: an alias points at it.
    """
    await tx.versions.mark_deleted(version.project_id, version.id, at)
    if any(other.weights == version.weights for other in await tx.versions.all_for_snapshot()):
        return
    placement = await tx.placements.by_weights(version.weights)
    if placement is not None:
        await tx.placements.unwant(placement.id)
