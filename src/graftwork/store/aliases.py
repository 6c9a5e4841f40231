"""Aliases: movable names of versions, moved by compare-and-set."""

from __future__ import annotations

from dataclasses import dataclass

from graftwork.core.errors import Conflict, NotFound
from graftwork.core.nouns import Alias, Version
from graftwork.store.session import Items, Repository
from graftwork.store.tables import alias_moves, aliases, versions


@dataclass(frozen=True, slots=True, kw_only=True)
class AliasMove:
    """One move of an alias: who, when, why, from where (None: created) to where."""

    adapter_id: str
    name: str
    generation: int
    from_version: str | None
    to_version: str
    actor: str
    reason: str
    at: float


class Aliases(Repository):
    """Aliases of adapters. The caller has checked that the adapter is the tenant's."""

    async def get(self, adapter_id: str, name: str) -> Alias | None:
        """The alias."""
        return await self._one(Alias, aliases, aliases.c.adapter_id == adapter_id, aliases.c.name == name)

    async def move(
        self,
        adapter_id: str,
        name: str,
        version_id: str,
        *,
        expected_generation: int,
        actor: str,
        reason: str,
        at: float,
    ) -> Alias:
        """Point the alias at a version if its generation is ``expected_generation`` (0: must not exist).

        Raises:
            NotFound: the adapter has no such live version (code ``version_not_found``).
            Conflict: somebody else moved the alias first (code ``alias_moved``).
        """
        target = (versions.c.adapter_id == adapter_id, versions.c.id == version_id)
        if await self._one(Version, versions, *target, versions.c.deleted_at.is_(None), lock=True) is None:
            raise NotFound("This adapter has no such version.", code="version_not_found")
        moved = Alias(
            adapter_id=adapter_id,
            name=name,
            version_id=version_id,
            generation=expected_generation + 1,
            updated_at=at,
        )
        before: Alias | None = None
        if expected_generation == 0:
            won = await self._insert_new(aliases, moved)
        else:
            mine = (aliases.c.adapter_id == adapter_id, aliases.c.name == name)
            before = await self._one(Alias, aliases, *mine, lock=True)
            expected = aliases.c.generation == expected_generation
            changes = {"version_id": version_id, "generation": moved.generation, "updated_at": at}
            won = await self._change(aliases, *mine, expected, **changes)
        if not won:
            raise Conflict(
                f"The alias {name!r} was moved by somebody else meanwhile.",
                code="alias_moved",
                fix="Look at where it points now, and decide again.",
            )
        record = AliasMove(
            adapter_id=adapter_id,
            name=name,
            generation=moved.generation,
            from_version=None if before is None else before.version_id,
            to_version=version_id,
            actor=actor,
            reason=reason,
            at=at,
        )
        await self._insert(alias_moves, record)
        self._touch()
        return moved

    async def moves(self, adapter_id: str, name: str) -> Items[AliasMove]:
        """The alias's history, newest first."""
        mine = (alias_moves.c.adapter_id == adapter_id, alias_moves.c.name == name)
        return await self._all(AliasMove, alias_moves, *mine, order=[alias_moves.c.generation.desc()])

    async def list(self, adapter_id: str) -> Items[Alias]:
        """The adapter's aliases by name."""
        return await self._all(Alias, aliases, aliases.c.adapter_id == adapter_id, order=[aliases.c.name])
