"""Moving aliases: promotion past the gate, and rollback to what was live before."""

from __future__ import annotations

from graftwork.core.errors import Conflict, InvalidRequest, NotFound
from graftwork.core.nouns import Adapter, Alias, Version
from graftwork.core.states import Verdict
from graftwork.registry.versions import DEFAULT_ALIAS, check_alias
from graftwork.store import AliasMove, Tx


async def promote(
    tx: Tx,
    project_id: str,
    adapter: Adapter,
    version: Version,
    *,
    alias: str = DEFAULT_ALIAS,
    expected_generation: int | None = None,
    actor: str,
    reason: str = "",
    at: float,
    force: bool = False,
) -> Alias:
    """Point an alias at a version, by compare-and-set. Only a version that passed its gate is promoted.

    Args:
        tx: a writing transaction.
        project_id: the owner of adapter and version.
        adapter: whose alias.
        version: where to.
        alias: which alias; created if need be.
        expected_generation: the alias's generation the caller last saw (0: there was none); None takes the
            present one. An alias that points there already, at the generation expected, stays as it is.
        actor: who; kept in the alias's history.
        reason: why; kept in the alias's history.
        at: now.
        force: promote although the gate did not pass; needs a reason.

    Raises:
        Conflict: the gate did not pass (code ``gate_refused``), or the alias was moved meanwhile
            (``alias_moved``).
        InvalidRequest: ``force`` without a reason, or a name that cannot be an alias's.
        NotFound: the version is not of this adapter and project, or was deleted (``version_not_found``).
    """
    check_alias(alias)
    if version.project_id != project_id or version.adapter_id != adapter.id:
        raise NotFound("This adapter has no such version.", code="version_not_found")
    forced = version.verdict is not Verdict.PASS
    if forced:
        _check_force(adapter, version, force=force, reason=reason)
    told = f"forced past the gate ({version.verdict}): {reason}" if forced else reason
    return await _move(tx, adapter, alias, version, expected_generation, actor=actor, reason=told, at=at)


async def rollback(
    tx: Tx,
    project_id: str,
    adapter: Adapter,
    *,
    alias: str = DEFAULT_ALIAS,
    expected_generation: int | None = None,
    actor: str,
    reason: str = "rollback",
    at: float,
) -> Alias:
    """Point an alias back at the version that was live before the present one; again goes one further back.

    Raises:
        NotFound: the adapter has no such alias (code ``alias_not_found``).
        Conflict: there is nothing earlier to go back to (code ``nothing_to_roll_back``), or the alias was
            moved meanwhile (``alias_moved``).
    """
    target = await previous(tx, project_id, adapter, alias)
    return await _move(tx, adapter, alias, target, expected_generation, actor=actor, reason=reason, at=at)


async def previous(tx: Tx, project_id: str, adapter: Adapter, alias: str) -> Version:
    """The version a rollback would go to. Raises as ``rollback``."""
    moves = await tx.aliases.moves(adapter.id, alias)
    if not moves:
        raise NotFound(
            f"The adapter {adapter.name!r} has no alias {alias!r}.",
            code="alias_not_found",
            fix="Promote a version first.",
        )
    for version_id in reversed(line_of(moves)[:-1]):
        version = await tx.versions.get(project_id, version_id)
        if version is not None and version.deleted_at is None:
            return version
    raise Conflict(
        f"There is no earlier version for {adapter.name}@{alias} to go back to.",
        code="nothing_to_roll_back",
        fix="Promote the version you want by its number.",
    )


def line_of(moves: list[AliasMove]) -> list[str]:
    """The versions an alias stands on, oldest first, from its history (newest move first).

    Moving back to a version takes off what came after it: a version that was rolled back is not gone back to.
    """
    line: list[str] = []
    for move in reversed(moves):
        if move.to_version in line:
            del line[line.index(move.to_version) :]
        line.append(move.to_version)
    return line


async def _move(
    tx: Tx,
    adapter: Adapter,
    alias: str,
    version: Version,
    expected: int | None,
    *,
    actor: str,
    reason: str,
    at: float,
) -> Alias:
    current = await tx.aliases.get(adapter.id, alias)
    generation = 0 if current is None else current.generation
    if current is not None and current.version_id == version.id and expected in (None, generation):
        return current
    return await tx.aliases.move(
        adapter.id,
        alias,
        version.id,
        expected_generation=generation if expected is None else expected,
        actor=actor,
        reason=reason,
        at=at,
    )


def _check_force(adapter: Adapter, version: Version, *, force: bool, reason: str) -> None:
    if not force:
        raise Conflict(
            f"The gate's verdict on {adapter.name}@{version.number} is {version.verdict}: not promoted.",
            code="gate_refused",
            fix="Read the evaluation's reasons; to promote it all the same, force it and say why.",
        )
    if not reason.strip():
        raise InvalidRequest(
            "A forced promotion needs a reason.",
            code="reason_required",
            param="reason",
            fix="Say why; it is kept in the alias's history.",
        )
