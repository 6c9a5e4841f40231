"""From an adapter's rows to what its owner sees, and from a reference to a version."""

from __future__ import annotations

from graftwork.control.names import DEFAULT_ALIAS
from graftwork.control.views import AdapterView, Move, VersionView
from graftwork.core.errors import Conflict, NotFound
from graftwork.core.nouns import Adapter, Version
from graftwork.store import Tx


async def adapter_view(tx: Tx, adapter: Adapter) -> AdapterView:
    """An adapter with everything that hangs on it."""
    aliases = await tx.aliases.list(adapter.id)
    versions = await tx.versions.list(adapter.id)
    numbers = {version.id: version.number for version in versions}
    moves: list[Move] = []
    for alias in aliases:
        for row in await tx.aliases.moves(adapter.id, alias.name):
            moves.append(
                Move(
                    alias=alias.name,
                    from_version=None if row.from_version is None else numbers.get(row.from_version),
                    to_version=numbers[row.to_version],
                    generation=row.generation,
                    actor=row.actor,
                    reason=row.reason,
                    at=row.at,
                )
            )
    return AdapterView(
        adapter=adapter,
        versions=tuple([await version_view(tx, adapter, v) for v in versions]),
        aliases=tuple(aliases),
        moves=tuple(sorted(moves, key=lambda move: move.at, reverse=True)),
    )


async def version_view(tx: Tx, adapter: Adapter, version: Version) -> VersionView:
    """A version with its aliases, its placement and its evaluation."""
    return VersionView(
        version=version,
        name=f"{adapter.name}@{version.number}",
        aliases=tuple(a.name for a in await tx.aliases.list(adapter.id) if a.version_id == version.id),
        placement=await tx.placements.by_weights(version.weights),
        evaluation=await tx.evaluations.for_job(version.job_id),
    )


async def adapter_named(tx: Tx, project_id: str, name: str) -> Adapter:
    """The project's adapter of that name.

    Raises:
        NotFound: there is none.
    """
    adapter = await tx.adapters.get_by_name(project_id, name)
    if adapter is None:
        raise NotFound(
            f"No such adapter: {name!r}.",
            fix="List the project's adapters to see their names.",
            code="adapter_not_found",
        )
    return adapter


async def version_numbered(tx: Tx, adapter: Adapter, number: int) -> Version:
    """Version ``number`` of an adapter.

    Raises:
        NotFound: there is none, or it was deleted.
    """
    version = await tx.versions.by_number(adapter.id, number)
    if version is None or version.deleted_at is not None:
        raise no_version(f"{adapter.name}@{number}")
    return version


async def version_referred(tx: Tx, project_id: str, reference: str) -> Version:
    """The version meant by ``support@3``, ``support@production``, ``support``, an ``ft:`` name or an id.

    Raises:
        NotFound: nothing of that name in this project, or deleted.
    """
    direct = await tx.versions.by_model(project_id, reference) or await tx.versions.get(project_id, reference)
    if direct is not None:
        if direct.deleted_at is not None:
            raise no_version(reference)
        return direct
    name, _, which = reference.partition("@")
    adapter = await adapter_named(tx, project_id, name)
    if which.isdigit():
        return await version_numbered(tx, adapter, int(which))
    alias = await tx.aliases.get(adapter.id, which or DEFAULT_ALIAS)
    version = None if alias is None else await tx.versions.get(project_id, alias.version_id)
    if version is None:
        raise no_version(reference)
    return version


async def version_before(tx: Tx, adapter: Adapter, alias: str) -> Version:
    """The version an alias pointed at before the one it points at now.

    Raises:
        NotFound: the adapter has no such alias.
        Conflict: there is nothing earlier to go back to, or it was deleted.
    """
    moves = await tx.aliases.moves(adapter.id, alias)
    if not moves:
        raise NotFound(
            f"Adapter {adapter.name!r} has no alias {alias!r}.",
            fix="Promote a version first.",
            code="alias_not_found",
        )
    earlier = moves[0].from_version
    version = None if earlier is None else await tx.versions.get(adapter.project_id, earlier)
    if version is None or version.deleted_at is not None:
        raise Conflict(
            f"There is no earlier version for {adapter.name}@{alias} to go back to.",
            fix="Promote the version you want by its number.",
            code="nothing_to_roll_back_to",
        )
    return version


def no_version(reference: str) -> NotFound:
    """The error for a version that is not in the project."""
    return NotFound(
        f"No such version: {reference!r}.",
        fix="Show the adapter to see its versions and aliases.",
        code="version_not_found",
    )
