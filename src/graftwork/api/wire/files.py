"""Files on the wire."""

from __future__ import annotations

from typing import Literal

from graftwork.api.wire.base import Wire, seconds
from graftwork.core.nouns import StoredFile


class File(Wire):
    """OpenAI's file object. An upload is answered when it is stored whole, so it is always processed."""

    id: str
    object: Literal["file"] = "file"
    bytes: int
    created_at: int
    expires_at: int | None
    filename: str
    purpose: str
    status: Literal["processed"] = "processed"
    status_details: str | None = None


class FileDeleted(Wire):
    """A file is gone."""

    id: str
    object: Literal["file"] = "file"
    deleted: bool = True


def file_wire(stored: StoredFile) -> File:
    """A file as OpenAI writes it."""
    return File(
        id=stored.id,
        bytes=stored.bytes,
        created_at=int(stored.created_at),
        expires_at=seconds(stored.expires_at),
        filename=stored.filename,
        purpose=stored.purpose,
    )
