"""Files: uploaded data sets and produced results."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Literal

from graftwork.artifacts import Artifacts
from graftwork.core import ids
from graftwork.core.clock import Clock
from graftwork.core.errors import Conflict, InvalidRequest, NotFound
from graftwork.core.nouns import StoredFile
from graftwork.store import Page, Store, Tx

MAX_BYTES = 512 * 1024 * 1024
PURPOSES = ("fine-tune", "assistants", "batch", "vision", "user_data", "evals")
"""What a customer may upload; ``fine-tune-results`` is written by us only."""
EXPIRY = (3600, 2_592_000)
"""Shortest and longest life of an expiring file, in seconds."""
RESULTS = "fine-tune-results"


class FilesService:
    """Uploads, look-ups and deletion of files; bytes live in artifacts, by content."""

    def __init__(self, store: Store, artifacts: Artifacts, clock: Clock) -> None:
        self._store = store
        self._artifacts = artifacts
        self._clock = clock

    async def create(
        self,
        project_id: str,
        *,
        filename: str,
        purpose: str,
        content: AsyncIterator[bytes] | bytes,
        expires_after: int | None = None,
    ) -> StoredFile:
        """Store an upload, streamed; ``expires_after`` is seconds from now.

        Raises:
            InvalidRequest: unknown purpose, no name, empty, over 512 MB, or expiry out of range.
        """
        _check(filename, purpose, expires_after)
        stream = _once(content) if isinstance(content, bytes) else content
        sha256, size = await self._artifacts.put_stream(stream, MAX_BYTES)
        if size == 0:
            raise InvalidRequest("The file is empty.", fix="Upload a file with rows in it.", param="file")
        now = self._clock.now()
        stored = StoredFile(
            id=ids.new_id(ids.FILE),
            project_id=project_id,
            filename=filename,
            purpose=purpose,
            bytes=size,
            sha256=sha256,
            created_at=now,
            expires_at=None if expires_after is None else now + expires_after,
        )
        async with self._store.begin() as tx:
            await tx.files.create(stored)
        return stored

    async def get(self, project_id: str, file_id: str) -> StoredFile:
        """One file.

        Raises:
            NotFound: no such file in this project, or deleted, or expired.
        """
        async with self._store.read() as tx:
            stored = await tx.files.get(project_id, file_id)
        if stored is None:
            raise no_file(file_id)
        return stored

    async def list(
        self,
        project_id: str,
        *,
        purpose: str | None = None,
        after: str | None = None,
        limit: int = 10_000,
        order: Literal["asc", "desc"] = "desc",
    ) -> Page[StoredFile]:
        """The project's files; ``after`` is the id of the last one seen."""
        async with self._store.read() as tx:
            return await tx.files.list(project_id, purpose=purpose, after=after, limit=limit, order=order)

    async def content(self, project_id: str, file_id: str) -> tuple[StoredFile, AsyncIterator[bytes]]:
        """A file and its bytes, streamed.

        Raises:
            NotFound: as ``get``.
        """
        stored = await self.get(project_id, file_id)
        return stored, self._artifacts.stream(stored.sha256)

    async def delete(self, project_id: str, file_id: str) -> StoredFile:
        """Delete a file; its bytes stay while another file has the same content.

        Raises:
            NotFound: as ``get``.
            Conflict: a job that has not ended uses it.
        """
        async with self._store.begin() as tx:
            stored = await tx.files.get(project_id, file_id)
            if stored is None:
                raise no_file(file_id)
            user = await tx.jobs.using_file(project_id, file_id)
            if user is not None:
                raise Conflict(
                    f"File {file_id!r} is used by job {user.id!r}, which is {user.phase}.",
                    fix="Wait for the job to end, or cancel it.",
                    code="file_in_use",
                )
            await tx.files.delete(project_id, file_id, self._clock.now())
        return stored


def no_file(file_id: str, param: str | None = None) -> NotFound:
    """The error for a file that is not in the project."""
    return NotFound(
        f"No such file: {file_id!r}.",
        fix="List the project's files to see their ids; deleted and expired files are gone.",
        code="file_not_found",
        param=param,
    )


async def check_files(tx: Tx, project_id: str, training: str, validation: str | None) -> None:
    """Whether a job may be given these files.

    Raises:
        NotFound: one is not in the project.
        InvalidRequest: one was uploaded for another purpose.
    """
    for param, file_id in (("training_file", training), ("validation_file", validation)):
        if file_id is None:
            continue
        stored = await tx.files.get(project_id, file_id)
        if stored is None:
            raise no_file(file_id, param)
        if stored.purpose != "fine-tune":
            raise InvalidRequest(
                f"File {file_id!r} was uploaded for {stored.purpose!r}.",
                fix="Upload it again with purpose 'fine-tune'.",
                code="wrong_file_purpose",
                param=param,
            )


async def _once(content: bytes) -> AsyncIterator[bytes]:
    yield content


def _check(filename: str, purpose: str, expires_after: int | None) -> None:
    if not filename.strip() or "\x00" in filename or len(filename) > 512:
        raise InvalidRequest(
            "The file has no usable name.", fix="Send a filename of 1 to 512 characters.", param="file"
        )
    if purpose not in PURPOSES:
        raise InvalidRequest(
            f"{purpose!r} is not a purpose.", fix=f"Use one of: {', '.join(PURPOSES)}.", param="purpose"
        )
    if expires_after is not None and not EXPIRY[0] <= expires_after <= EXPIRY[1]:
        raise InvalidRequest(
            f"expires_after must be between {EXPIRY[0]} and {EXPIRY[1]} seconds.",
            fix="Send a value in that range, or leave it out.",
            param="expires_after",
        )
