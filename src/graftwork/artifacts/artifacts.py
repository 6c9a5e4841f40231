"""Content-addressed blobs: put bytes, get their sha256; what is read back is hashed again."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import re
import shutil
import tempfile
import uuid
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterator, Mapping
from pathlib import Path
from typing import BinaryIO

from obstore.store import from_url

from graftwork.artifacts.blobs import (
    CHUNK,
    Blobs,
    LocalBlobs,
    RemoteBlobs,
    Spool,
    finish,
    storage_errors,
    sync_folder,
)
from graftwork.core.errors import InvalidRequest, PlatformError

_SHA256 = re.compile(r"[0-9a-f]{64}")
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,199}")


class Artifacts:
    """Blobs in a folder, or under a URL (``s3://…``, ``gs://…``, ``az://…``).

    Methods are asynchronous and do their reading and writing in threads.
    """

    def __init__(
        self,
        root: Path | str,
        *,
        blobs: Blobs | None = None,
        opener: Callable[[Path], BinaryIO] | None = None,
    ) -> None:
        """Use the folder or the URL ``root``.

        Args:
            root: a folder (created if need be) or a URL; with ``blobs`` the folder for files being written.
            blobs: where blobs lie, if neither in the folder nor under the URL.
            opener: opens a file for writing; tests give one that fails.
        """
        if isinstance(root, str) and "://" in root:
            self._blobs = blobs or RemoteBlobs(from_url(root))
            folder = Path(tempfile.gettempdir()) / f"graftwork-spool-{os.geteuid()}"
        else:
            Path(root).mkdir(mode=0o700, parents=True, exist_ok=True)
            self._blobs = blobs or LocalBlobs(Path(root))
            folder = Path(root) / "spool"
        self._spool = Spool(folder, opener)

    async def put(self, data: bytes) -> str:
        """Store bytes (those already there are left alone); their sha256.

        Raises:
            PlatformError: the disk is full (code ``storage_full``); nothing is visible of the blob then.
        """
        return await asyncio.to_thread(self._put, iter([data]))

    async def put_file(self, path: Path) -> str:
        """Store a file's bytes; their sha256."""
        return await asyncio.to_thread(self._put, _chunks(path))

    async def put_stream(self, stream: AsyncIterable[bytes], max_bytes: int) -> tuple[str, int]:
        """Store what a stream yields; its sha256 and size.

        Raises:
            InvalidRequest: more than ``max_bytes`` came (code ``file_too_large``).
        """
        digest, size = hashlib.sha256(), 0
        with self._spool.file() as (path, file):
            async for piece in _gathered(stream):
                size += len(piece)
                if size > max_bytes:
                    raise InvalidRequest(
                        f"The file is larger than {max_bytes} bytes.",
                        code="file_too_large",
                        param="file",
                        fix="Split it into smaller files.",
                    )
                digest.update(piece)
                await asyncio.to_thread(file.write, piece)
            await asyncio.to_thread(finish, file)
            await asyncio.to_thread(self._blobs.commit, path, digest.hexdigest())
        return digest.hexdigest(), size

    async def get(self, sha256: str) -> bytes:
        """The bytes of a blob, hashed again.

        Raises:
            PlatformError: it is missing (code ``artifact_missing``) or not what its name says
                (code ``artifact_corrupt``).
        """
        return await asyncio.to_thread(lambda: b"".join(self._verified(sha256)))

    async def stream(self, sha256: str) -> AsyncIterator[bytes]:
        """The bytes of a blob in chunks; a corrupt one raises instead of yielding its last chunk."""
        chunks = self._verified(sha256)
        while (chunk := await asyncio.to_thread(next, chunks, None)) is not None:
            yield chunk

    async def exists(self, sha256: str) -> bool:
        """Whether the blob is there (its bytes are not read)."""
        return await asyncio.to_thread(self._blobs.exists, _checked(sha256))

    async def materialize(self, files: Mapping[str, str], directory: Path) -> Path:
        """Make ``directory`` hold exactly these blobs (file name to sha256) as read-only files.

        It appears at once and complete, or not at all. A folder that is there is verified and left alone.

        Raises:
            PlatformError: a blob is missing or corrupt, or the folder that is there holds something else
                (code ``artifact_corrupt``).
        """
        return await asyncio.to_thread(self._materialize, dict(files), directory)

    @staticmethod
    def digest_of(files: Mapping[str, str]) -> str:
        """The digest of a set of files: sha256 of the canonical JSON of name to sha256."""
        text = json.dumps(dict(files), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()

    def _put(self, chunks: Iterator[bytes]) -> str:
        digest = hashlib.sha256()
        with self._spool.file() as (path, file):
            for chunk in chunks:
                digest.update(chunk)
                file.write(chunk)
            finish(file)
            self._blobs.commit(path, digest.hexdigest())
        return digest.hexdigest()

    def _verified(self, sha256: str) -> Iterator[bytes]:
        digest, held = hashlib.sha256(), b""
        for chunk in self._blobs.read(_checked(sha256)):
            if held:
                yield held
            digest.update(chunk)
            held = chunk
        if digest.hexdigest() != sha256:
            raise _corrupt(f"The artifact {sha256} is damaged: its bytes do not match its name.")
        if held:
            yield held

    def _materialize(self, files: dict[str, str], directory: Path) -> Path:
        for name in files:
            if not _NAME.fullmatch(name):
                raise PlatformError(
                    f"{name!r} is not a name for a file of an artifact.", code="artifact_name"
                )
        if directory.exists():
            return _verify_folder(files, directory)
        scratch = directory.with_name(f".{directory.name}.{uuid.uuid4().hex}")
        try:
            with storage_errors():
                scratch.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                scratch.mkdir(mode=0o700)
                for name, sha256 in files.items():
                    self._write(sha256, scratch / name)
                sync_folder(scratch)
            try:
                scratch.rename(directory)
            except OSError:
                if not directory.exists():
                    raise
                return _verify_folder(files, directory)  # somebody else was faster
            sync_folder(directory.parent)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
        return directory

    def _write(self, sha256: str, path: Path) -> None:
        with path.open("xb") as file:
            for chunk in self._verified(sha256):
                file.write(chunk)
            finish(file)
        path.chmod(0o400)


def _verify_folder(files: dict[str, str], directory: Path) -> Path:
    if {entry.name for entry in os.scandir(directory)} == set(files) and all(
        _sha256(directory / name) == sha256 for name, sha256 in files.items()
    ):
        return directory
    raise _corrupt(
        f"The folder {directory} does not hold the files it should.", "Delete the folder, then try again."
    )


def _corrupt(message: str, fix: str = "Restore the artifacts folder from a backup.") -> PlatformError:
    return PlatformError(message, code="artifact_corrupt", fix=fix)


def _checked(sha256: str) -> str:
    if not _SHA256.fullmatch(sha256):
        raise PlatformError(f"{sha256!r} is not a sha256 in hex.", code="artifact_name")
    return sha256


def _chunks(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            yield chunk


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    for chunk in _chunks(path):
        digest.update(chunk)
    return digest.hexdigest()


async def _gathered(stream: AsyncIterable[bytes]) -> AsyncIterator[bytes]:
    """The stream in larger pieces, so that there are fewer hops to a thread."""
    parts: list[bytes] = []
    size = 0
    async for part in stream:
        parts.append(part)
        size += len(part)
        if size >= CHUNK:
            yield b"".join(parts)
            parts, size = [], 0
    if parts:
        yield b"".join(parts)
