"""Requests that a project opted to keep. Every method but the purge takes the project first."""

from __future__ import annotations

import zlib
from collections.abc import Sequence

import orjson
from sqlalchemy import ColumnElement, delete, func, or_, select

from graftwork.core.nouns import Json, Keeping, KeptRequest
from graftwork.store.pages import Order, Page, page
from graftwork.store.session import Items, Repository, values
from graftwork.store.tables import keeping, kept

DAY = 86_400.0
_GROUP = 500
"""Rows deleted by one statement of the purge."""


class Kept(Repository):
    """Kept requests, and what projects opted for. Unlike other rows, these are deleted for good."""

    async def keeping(self, project_id: str) -> Keeping:
        """What the project opted for; nothing, if it never said."""
        found = await self._one(Keeping, keeping, keeping.c.project_id == project_id)
        return found or Keeping(project_id=project_id)

    async def opt(self, wanted: Keeping) -> None:
        """Set what the project opts for."""
        statement = self._session.insert(keeping).values(**values(wanted))
        changed = {name: statement.excluded[name] for name in ("mode", "days", "redact")}
        await self._session.run(statement.on_conflict_do_update(index_elements=["project_id"], set_=changed))
        self._touch()

    async def opted(self) -> Items[Keeping]:
        """All that projects ever opted for."""
        return await self._all(Keeping, keeping, order=[keeping.c.project_id])

    async def add(self, requests: Sequence[KeptRequest]) -> None:
        """Keep requests (does not raise the generation)."""
        if requests:
            rows = [values(request) for request in requests]
            await self._session.run(self._session.insert(kept).on_conflict_do_nothing(), rows)

    async def get(self, project_id: str, id: str) -> KeptRequest | None:
        """One of the project's, unless it has expired."""
        return await self._one(KeptRequest, kept, *self._mine(project_id), kept.c.id == id)

    async def page(
        self,
        project_id: str,
        *,
        model: str | None = None,
        after: str | None = None,
        limit: int,
        order: Order = "desc",
    ) -> Page[KeptRequest]:
        """A page of the project's, newest first unless ``order`` is ``asc``."""
        return await page(
            self._session,
            KeptRequest,
            kept,
            [*self._mine(project_id), *_of(model)],
            keys=("created_at", "id"),
            after=after,
            limit=limit,
            order=order,
            cursor_scope=[kept.c.project_id == project_id],
        )

    async def between(
        self,
        project_id: str,
        *,
        model: str | None,
        since: float | None,
        until: float | None,
        limit: int,
    ) -> Items[KeptRequest]:
        """The project's newest ``limit`` of a time, oldest first."""
        newest = await self._all(
            KeptRequest,
            kept,
            *self._mine(project_id),
            *_of(model),
            *_within(since, until),
            order=[kept.c.created_at.desc(), kept.c.id.desc()],
            limit=limit,
        )
        return newest[::-1]

    async def describe(self, project_id: str, id: str, metadata: dict[str, str] | None) -> bool:
        """Replace the metadata; False if the project has no such request."""
        return await self._change(kept, *self._mine(project_id), kept.c.id == id, metadata=metadata)

    async def delete(
        self,
        project_id: str,
        *,
        id: str | None = None,
        model: str | None = None,
        before: float | None = None,
    ) -> int:
        """Delete the project's requests of an id, a model or a time (of all, if none is given); how many."""
        where = [kept.c.project_id == project_id, *_of(model), *_within(None, before)]
        if id is not None:
            where.append(kept.c.id == id)
        return (await self._session.run(delete(kept).where(*where))).rowcount

    async def size(self, project_id: str) -> tuple[int, int]:
        """How many there are of the project, and their bytes."""
        statement = select(func.count(), func.coalesce(func.sum(kept.c.bytes), 0))
        count, total = tuple((await self._session.run(statement.where(*self._mine(project_id)))).one())
        return int(count), int(total)

    async def expire(self) -> int:
        """Delete some of what has expired; how many."""
        old = select(kept.c.id).where(kept.c.expires_at <= self._session.now_sql()).limit(_GROUP)
        return (await self._session.run(delete(kept).where(kept.c.id.in_(old)))).rowcount

    async def trim(self, project_id: str, rows: int, size: int) -> int:
        """Delete the project's oldest until at most so many rows and bytes are left; how many."""
        count, total = await self.size(project_id)
        if count <= rows and total <= size:
            return 0
        oldest = (
            select(kept.c.id, kept.c.bytes)
            .where(kept.c.project_id == project_id)
            .order_by(kept.c.created_at, kept.c.id)
            .limit(_GROUP)
        )
        gone: list[str] = []
        for row in await self._session.rows(oldest):
            if count <= rows and total <= size:
                break
            gone.append(row.id)
            count, total = count - 1, total - int(row.bytes)
        return (await self._session.run(delete(kept).where(kept.c.id.in_(gone)))).rowcount

    def _mine(self, project_id: str) -> tuple[ColumnElement[bool], ...]:
        return kept.c.project_id == project_id, kept.c.expires_at > self._session.now_sql()


def packed(document: Json) -> bytes:
    """``{"request", "answer"}`` as it is kept."""
    return zlib.compress(orjson.dumps(document), 6)


def unpacked(request: KeptRequest) -> Json:
    """``{"request", "answer"}`` of a kept request."""
    return orjson.loads(zlib.decompress(request.body))


def _of(model: str | None) -> list[ColumnElement[bool]]:
    """Of a model by any of its names: as it was asked for, adapter, version, ``ft:…`` name or base model."""
    if model is None:
        return []
    names = (kept.c.model, kept.c.adapter, kept.c.version, kept.c.name)
    asked = [column == model for column in names]
    # a base model's name means itself, not every adapter on it
    return [or_(*asked, (kept.c.base == model) & kept.c.version.is_(None))]


def _within(since: float | None, until: float | None) -> list[ColumnElement[bool]]:
    found: list[ColumnElement[bool]] = []
    if since is not None:
        found.append(kept.c.created_at >= since)
    if until is not None:
        found.append(kept.c.created_at < until)
    return found
