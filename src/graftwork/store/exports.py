"""Exports of versions: wanted, made or failed."""

from __future__ import annotations

from typing import Any

from sqlalchemy import func, select

from graftwork.core.nouns import Export
from graftwork.core.states import ExportState
from graftwork.store.claims import POKED, Claim, Leases
from graftwork.store.session import Items, Repository, Session
from graftwork.store.tables import exports


class Exports(Repository):
    """Exports. Methods that take a project see no other project's."""

    def __init__(self, session: Session) -> None:
        super().__init__(session)
        self._leases = Leases(session, exports, Export)

    async def create(self, export: Export) -> None:
        """Add an export, due at once."""
        await self._insert(exports, export, next_at=POKED)

    async def get(self, project_id: str, id: str) -> Export | None:
        """The project's export."""
        return await self._one(Export, exports, exports.c.project_id == project_id, exports.c.id == id)

    async def list(self, project_id: str, limit: int) -> Items[Export]:
        """The project's exports, newest first."""
        order = [exports.c.created_at.desc(), exports.c.id.desc()]
        return await self._all(Export, exports, exports.c.project_id == project_id, order=order, limit=limit)

    async def like(self, version_id: str, format: str, quant: str, with_base: bool) -> Export | None:
        """The newest download of a version in this format that did not fail."""
        found = await self._all(
            Export,
            exports,
            exports.c.version_id == version_id,
            exports.c.format == format,
            exports.c.quant == quant,
            exports.c.with_base.is_(with_base),
            exports.c.repository.is_(None),
            exports.c.state != ExportState.FAILED,
            order=[exports.c.created_at.desc()],
            limit=1,
        )
        return found[0] if found else None

    async def pending(self, project_id: str) -> int:
        """How many of the project's exports are not finished."""
        mine = (exports.c.project_id == project_id, exports.c.state == ExportState.PENDING)
        return int(await self._session.scalar(select(func.count()).select_from(exports).where(*mine)))

    async def claim(self, owner: str, limit: int = 1, lease_seconds: float = 30.0) -> Items[Claim[Export]]:
        """Lease up to ``limit`` exports that are to be made."""
        waiting = [exports.c.state == ExportState.PENDING]
        return await self._leases.claim(owner, limit=limit, lease_seconds=lease_seconds, where=waiting)

    async def renew(self, claim: Claim[Export], seconds: float) -> bool:
        """Extend a lease; False if it was lost."""
        return await self._leases.renew(claim, claim.item.id, seconds)

    async def release(self, claim: Claim[Export], next_at: float) -> bool:
        """Give an export back until ``next_at``; False if the lease was lost."""
        return await self._leases.release(claim, claim.item.id, next_at)

    async def apply(self, claim: Claim[Export], **changes: Any) -> bool:
        """Change a claimed export; False if the lease was lost."""
        return await self._leases.apply(claim, claim.item.id, [], changes)
