"""Adapters: their versions, the aliases that point at them, promotion and rollback."""

from __future__ import annotations

from graftwork.control.bell import Bell
from graftwork.control.names import DEFAULT_ALIAS
from graftwork.control.services.adapter_views import (
    adapter_named,
    adapter_view,
    version_before,
    version_numbered,
    version_referred,
    version_view,
)
from graftwork.control.views import AdapterView, VersionView
from graftwork.core.clock import Clock
from graftwork.core.errors import Conflict, InvalidRequest
from graftwork.core.nouns import Adapter, Alias, Version
from graftwork.core.states import Verdict
from graftwork.store import Store, Tx


class AdaptersService:
    """A project's adapters."""

    def __init__(self, store: Store, clock: Clock, bell: Bell) -> None:
        self._store = store
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
            return await adapter_view(tx, await adapter_named(tx, project_id, name))

    async def version(self, project_id: str, reference: str) -> VersionView:
        """One version with its receipt (``version.manifest``).

        ``reference`` is ``support@3``, ``support@production``, ``support``, an ``ft:`` name or a version id.

        Raises:
            NotFound: nothing of that name in this project.
        """
        async with self._store.read() as tx:
            version = await version_referred(tx, project_id, reference)
            adapter = await tx.adapters.get(project_id, version.adapter_id)
            return await version_view(tx, adapter, version)

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
            adapter = await adapter_named(tx, project_id, name)
            version = await version_numbered(tx, adapter, number)
            _check_gate(adapter, version, force=force, reason=reason)
            moved = await self._move(tx, adapter, alias, version, actor, reason, expected_generation)
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
            adapter = await adapter_named(tx, project_id, name)
            target = await version_before(tx, adapter, alias)
            why = reason or "rollback"
            moved = await self._move(tx, adapter, alias, target, actor, why, expected_generation)
        self._bell.ring()
        return moved

    async def delete_version(self, project_id: str, reference: str) -> Version:
        """Delete a version: its names stop answering; its receipt is kept.

        Raises:
            NotFound: nothing of that name in this project.
            Conflict: an alias points at it.
        """
        async with self._store.begin() as tx:
            version = await version_referred(tx, project_id, reference)
            await drop_version(tx, version, self._clock.now())
        self._bell.ring()
        return version

    async def _move(
        self,
        tx: Tx,
        adapter: Adapter,
        alias: str,
        version: Version,
        actor: str,
        reason: str,
        expected: int | None,
    ) -> Alias:
        current = await tx.aliases.get(adapter.id, alias)
        generation = current.generation if current is not None else 0
        if current is not None and current.version_id == version.id and expected in (None, generation):
            return current
        return await tx.aliases.move(
            adapter.id,
            alias,
            version.id,
            expected_generation=generation if expected is None else expected,
            actor=actor,
            reason=reason,
            at=self._clock.now(),
        )


async def drop_version(tx: Tx, version: Version, at: float) -> None:
    """Mark a version deleted and let its weights be unloaded.

    Raises:
        Conflict: an alias points at it.
    """
    pointing = [a.name for a in await tx.aliases.list(version.adapter_id) if a.version_id == version.id]
    if pointing:
        raise Conflict(
            f"Version {version.number} is what {', '.join(pointing)} points at.",
            fix="Move the alias to another version first.",
            code="version_in_use",
        )
    await tx.versions.mark_deleted(version.project_id, version.id, at)
    placement = await tx.placements.by_weights(version.weights)
    if placement is not None:
        await tx.placements.unwant(placement.id)


def _check_gate(adapter: Adapter, version: Version, *, force: bool, reason: str) -> None:
    if version.verdict is Verdict.PASS:
        return
    if not force:
        raise Conflict(
            f"The gate's verdict on {adapter.name}@{version.number} is {version.verdict}, so it is not promoted.",
            fix="Read the evaluation's reasons; to promote it all the same, force it and say why.",
            code="gate_not_passed",
        )
    if not reason.strip():
        raise InvalidRequest(
            "A forced promotion needs a reason.", fix="Say why in reason; it is kept.", param="reason"
        )
