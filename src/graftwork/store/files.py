"""Uploaded and produced files; the bytes are in the artifacts."""

from __future__ import annotations

from sqlalchemy import ColumnElement, or_

from graftwork.core.nouns import StoredFile
from graftwork.store.pages import Order, Page, page
from graftwork.store.session import Repository
from graftwork.store.tables import files


class Files(Repository):
    """Files of projects. A deleted or expired file is as good as absent."""

    async def create(self, file: StoredFile) -> None:
        """Add a file."""
        await self._insert(files, file)

    async def get(self, project_id: str, id: str) -> StoredFile | None:
        """The project's file, unless it is deleted or expired."""
        return await self._one(
            StoredFile, files, files.c.project_id == project_id, files.c.id == id, *self._live()
        )

    async def delete(self, project_id: str, id: str, at: float) -> bool:
        """Mark a file deleted; False if the project has no such live file."""
        return await self._change(
            files, files.c.project_id == project_id, files.c.id == id, *self._live(), deleted_at=at
        )

    def _live(self) -> tuple[ColumnElement[bool], ...]:
        unexpired = or_(files.c.expires_at.is_(None), files.c.expires_at > self._session.now_sql())
        return files.c.deleted_at.is_(None), unexpired

    async def list(
        self,
        project_id: str,
        *,
        purpose: str | None = None,
        after: str | None = None,
        limit: int,
        order: Order = "desc",
    ) -> Page[StoredFile]:
        """A page of the project's live files, newest first unless ``order`` is ``asc``."""
        mine = files.c.project_id == project_id
        scope = [mine, *self._live()]
        if purpose is not None:
            scope.append(files.c.purpose == purpose)
        return await page(
            self._session,
            StoredFile,
            files,
            scope,
            keys=("created_at", "id"),
            after=after,
            limit=limit,
            order=order,
            cursor_scope=[mine],
        )
