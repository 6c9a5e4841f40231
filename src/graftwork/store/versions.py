"""Versions: immutable adapters, numbered within their line."""

from __future__ import annotations

from dataclasses import replace

from sqlalchemy import func, select

from graftwork.core.errors import Conflict, NotFound
from graftwork.core.nouns import Adapter, Version
from graftwork.store.session import Items, Repository
from graftwork.store.tables import adapters, aliases, versions


class Versions(Repository):
    """Versions of projects."""

    async def create(self, version: Version) -> Version:
        """Add a version under its adapter's next number; the same id or job again returns the stored one.

        Raises:
            NotFound: the project has no such adapter.
        """
        mine = (adapters.c.id == version.adapter_id, adapters.c.project_id == version.project_id)
        if await self._one(Adapter, adapters, *mine, lock=True) is None:  # the lock makes numbering serial
            raise NotFound(f"There is no adapter {version.adapter_id!r}.", code="adapter_not_found")
        same = (versions.c.id == version.id) | (versions.c.job_id == version.job_id)
        known = await self._one(Version, versions, same)
        if known is not None:
            return known
        newest = select(func.max(versions.c.number)).where(versions.c.adapter_id == version.adapter_id)
        numbered = replace(version, number=(await self._session.scalar(newest) or 0) + 1)
        await self._insert(versions, numbered)
        self._touch()
        return numbered

    async def get(self, project_id: str, id: str) -> Version | None:
        """The project's version, a deleted one too (``deleted_at`` says so)."""
        return await self._one(Version, versions, versions.c.project_id == project_id, versions.c.id == id)

    async def by_number(self, adapter_id: str, number: int) -> Version | None:
        """The version ``number`` of an adapter, a deleted one too."""
        return await self._one(
            Version, versions, versions.c.adapter_id == adapter_id, versions.c.number == number
        )

    async def by_model(self, project_id: str, model: str) -> Version | None:
        """The project's version with this ``ft:…`` name, unless deleted."""
        mine = (versions.c.project_id == project_id, versions.c.model == model)
        return await self._one(Version, versions, *mine, versions.c.deleted_at.is_(None))

    async def by_job(self, job_id: str) -> Version | None:
        """The version a job made: for reconcilers."""
        return await self._one(Version, versions, versions.c.job_id == job_id)

    async def mark_deleted(self, project_id: str, id: str, at: float) -> bool:
        """Mark a version deleted; False if the project has no such live version.

        Raises:
            Conflict: an alias points at it (code ``version_in_use``).
        """
        live = (versions.c.project_id == project_id, versions.c.id == id, versions.c.deleted_at.is_(None))
        # The lock keeps an alias from moving here between the check and the mark (see ``Aliases.move``).
        if await self._one(Version, versions, *live, lock=True) is None:
            return False
        name = await self._session.scalar(
            select(aliases.c.name).where(aliases.c.version_id == id).order_by(aliases.c.name)
        )
        if name is not None:
            raise Conflict(
                f"The alias {name!r} points at this version.",
                code="version_in_use",
                fix="Promote another version first, then delete this one.",
            )
        self._touch()
        return await self._change(versions, versions.c.id == id, deleted_at=at)

    async def all_for_snapshot(self) -> Items[Version]:
        """All live versions of all projects."""
        return await self._all(Version, versions, versions.c.deleted_at.is_(None), order=[versions.c.id])

    async def list(self, adapter_id: str) -> Items[Version]:
        """The adapter's live versions, newest first."""
        mine = (versions.c.adapter_id == adapter_id, versions.c.deleted_at.is_(None))
        return await self._all(Version, versions, *mine, order=[versions.c.number.desc()])
