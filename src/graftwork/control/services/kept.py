"""Requests that a project opted to keep: what it opted for, what is there, data sets out of it, deletion."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace
from typing import Any

from graftwork.control.services.files import FilesService
from graftwork.core.errors import InvalidRequest, NotFound
from graftwork.core.nouns import Keeping, KeptRequest, StoredFile
from graftwork.data import canonical
from graftwork.data.logged import rows_of
from graftwork.store import Page, Store
from graftwork.store.kept import unpacked
from graftwork.store.pages import Order

MODES = ("off", "asked", "all")
LONGEST = 365
"""Days for which requests may be kept."""
MOST_ROWS, MOST_BYTES = 100_000, 1 << 30
"""Of one project: beyond these the oldest go, whatever their time."""
_ROWS_OUT = 50_000
"""Most requests of one data set."""


@dataclass(frozen=True, slots=True)
class Holdings:
    """What a project opted for, and what is there."""

    keeping: Keeping
    requests: int
    bytes: int


class KeptService:
    """Everything takes the project first; nothing of another project is seen, counted or deleted."""

    def __init__(self, store: Store, files: FilesService) -> None:
        self._store = store
        self._files = files

    async def holdings(self, project_id: str) -> Holdings:
        """What the project opted for, and how much is kept."""
        async with self._store.read() as tx:
            keeping = await tx.kept.keeping(project_id)
            count, size = await tx.kept.size(project_id)
        return Holdings(keeping, count, size)

    async def opt(
        self,
        project_id: str,
        *,
        mode: str | None = None,
        days: int | None = None,
        redact: bool | None = None,
    ) -> Holdings:
        """Change what the project opts for; what is kept already stays until it expires or is deleted.

        Raises:
            InvalidRequest: no such mode, or days out of range.
        """
        if mode is not None and mode not in MODES:
            raise InvalidRequest(
                f"{mode!r} is no way to keep requests.", fix=f"Use one of: {', '.join(MODES)}.", param="mode"
            )
        if days is not None and not 1 <= days <= LONGEST:
            raise InvalidRequest(
                f"Requests are kept 1 to {LONGEST} days.", fix="Send such a number.", param="days"
            )
        changes = {"mode": mode, "days": days, "redact": redact}
        async with self._store.begin() as tx:
            now = await tx.kept.keeping(project_id)
            given = {name: value for name, value in changes.items() if value is not None}
            await tx.kept.opt(replace(now, **given))
        return await self.holdings(project_id)

    async def page(
        self,
        project_id: str,
        *,
        model: str | None = None,
        after: str | None = None,
        limit: int = 20,
        order: Order = "asc",
    ) -> Page[KeptRequest]:
        """The project's requests, of a model by any of its names."""
        async with self._store.read() as tx:
            return await tx.kept.page(project_id, model=model, after=after, limit=limit, order=order)

    async def get(self, project_id: str, id: str) -> KeptRequest:
        """One of the project's.

        Raises:
            NotFound: there is none of that id, or no more.
        """
        async with self._store.read() as tx:
            found = await tx.kept.get(project_id, id)
        if found is None:
            raise _nothing(id)
        return found

    async def describe(self, project_id: str, id: str, metadata: dict[str, str] | None) -> KeptRequest:
        """Replace its metadata.

        Raises:
            NotFound: as ``get``.
        """
        async with self._store.begin() as tx:
            if not await tx.kept.describe(project_id, id, metadata):
                raise _nothing(id)
        return await self.get(project_id, id)

    async def delete(self, project_id: str, id: str) -> None:
        """Delete one for good.

        Raises:
            NotFound: as ``get``.
        """
        async with self._store.begin() as tx:
            if not await tx.kept.delete(project_id, id=id):
                raise _nothing(id)

    async def forget(self, project_id: str, *, model: str | None = None, before: float | None = None) -> int:
        """Delete all of a model, of before a time, or all; how many."""
        async with self._store.begin() as tx:
            return await tx.kept.delete(project_id, model=model, before=before)

    async def dataset(
        self,
        project_id: str,
        *,
        model: str | None = None,
        since: float | None = None,
        until: float | None = None,
        limit: int = _ROWS_OUT,
        near: float | None = None,
        filename: str = "from-logs.jsonl",
    ) -> tuple[StoredFile | None, dict[str, Any]]:
        """A new file of the project with the rows of its newest requests, and a report; no file without rows.

        Raises:
            InvalidRequest: a threshold or limit out of range.
        """
        if not 1 <= limit <= _ROWS_OUT or (near is not None and not 0 < near <= 1):
            raise InvalidRequest(
                f"limit is 1 to {_ROWS_OUT}, near above 0 and at most 1.", fix="Send such numbers."
            )
        async with self._store.read() as tx:
            kept = await tx.kept.between(project_id, model=model, since=since, until=until, limit=limit)
        found = await asyncio.to_thread(lambda: rows_of((unpacked(one) for one in kept), near))
        if not found.rows:
            return None, found.to_json()
        content = await asyncio.to_thread(canonical, found.rows)
        stored = await self._files.create(project_id, filename=filename, purpose="fine-tune", content=content)
        return stored, found.to_json()


async def tidy(store: Store, rows: int = MOST_ROWS, size: int = MOST_BYTES) -> int:
    """Delete what has expired, and the oldest of projects that have too much; how many requests."""
    gone = 0
    while True:
        async with store.begin() as tx:
            expired = await tx.kept.expire()
        gone += expired
        if not expired:
            break
    async with store.read() as tx:
        opted = await tx.kept.opted()
    for keeping in opted:
        while True:
            async with store.begin() as tx:
                trimmed = await tx.kept.trim(keeping.project_id, rows, size)
            gone += trimmed
            if not trimmed:
                break
    return gone


def _nothing(id: str) -> NotFound:
    return NotFound(
        f"No such stored completion: {id!r}.",
        fix="Only requests of projects that opted for it are kept, and only for so long; list them to see.",
        code="not_found",
    )
