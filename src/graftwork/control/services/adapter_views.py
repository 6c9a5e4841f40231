"""From an adapter's rows to what its owner sees."""

from __future__ import annotations

from graftwork.control.views import AdapterView, Move, VersionView
from graftwork.core.nouns import Adapter, Version
from graftwork.store import Tx


async def adapter_view(tx: Tx, adapter: Adapter) -> AdapterView:
    """An adapter with everything that hangs on it."""
    aliases = await tx.aliases.list(adapter.id)
    moves = [move for alias in aliases for move in await _moves(tx, adapter, alias.name)]
    return AdapterView(
        adapter=adapter,
        versions=tuple([await version_view(tx, v) for v in await tx.versions.list(adapter.id)]),
        aliases=tuple(aliases),
        moves=tuple(sorted(moves, key=lambda move: (move.at, move.generation), reverse=True)),
    )


async def version_view(tx: Tx, version: Version) -> VersionView:
    """A version with its aliases, its placement and its evaluation."""
    adapter = await tx.adapters.get(version.project_id, version.adapter_id)
    aliases = await tx.aliases.list(version.adapter_id)
    return VersionView(
        version=version,
        name=f"{adapter.name if adapter else version.adapter_id}@{version.number}",
        aliases=tuple(alias.name for alias in aliases if alias.version_id == version.id),
        placement=await tx.placements.by_weights(version.weights),
        evaluation=await tx.evaluations.for_job(version.job_id),
    )


async def _moves(tx: Tx, adapter: Adapter, alias: str) -> list[Move]:
    async def number(version_id: str | None) -> int | None:
        version = None if version_id is None else await tx.versions.get(adapter.project_id, version_id)
        return None if version is None else version.number

    return [
        Move(
            alias=alias,
            from_version=await number(row.from_version),
            to_version=await number(row.to_version) or 0,
            generation=row.generation,
            actor=row.actor,
            reason=row.reason,
            at=row.at,
        )
        for row in await tx.aliases.moves(adapter.id, alias)
    ]
