"""Where blobs lie: a local folder, or an object store. Both only ever create, never overwrite.

Locally we write ourselves instead of through obstore, whose local store does not fsync: a blob whose name is
its hash must be on the disk, whole, before the name exists.
"""

from __future__ import annotations

import errno
import os
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, Protocol, cast

import obstore
from obstore.exceptions import AlreadyExistsError
from obstore.store import ObjectStore

from graftwork.core.errors import PlatformError

CHUNK = 1 << 20
_FULL = {errno.ENOSPC, errno.EDQUOT}
_STALE = 24 * 3600.0


class Blobs(Protocol):
    """Blocking access to blobs by the sha256 of their bytes."""

    def commit(self, spool: Path, sha256: str) -> None:
        """Give the finished file ``spool`` its name; a no-op if the blob is there."""
        ...

    def read(self, sha256: str) -> Iterator[bytes]:
        """The bytes in chunks; ``PlatformError`` (code ``artifact_missing``) if there is no such blob."""
        ...

    def exists(self, sha256: str) -> bool:
        """Whether there is such a blob."""
        ...


class LocalBlobs:
    """Blobs in a folder: ``sha256/<first two digits>/<digest>``, read-only files."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def commit(self, spool: Path, sha256: str) -> None:
        """Link the synced spool file to its name, and sync the name."""
        target = self._path(sha256)
        with storage_errors():
            target.parent.mkdir(parents=True, exist_ok=True)
            spool.chmod(0o400)
            with suppress(FileExistsError):
                os.link(spool, target)  # unlike a rename, a link never replaces
            sync_folder(target.parent)
            sync_folder(target.parent.parent)

    def read(self, sha256: str) -> Iterator[bytes]:
        """Chunks of the file."""
        try:
            file = self._path(sha256).open("rb")
        except FileNotFoundError:
            raise missing(sha256) from None
        with file:
            while chunk := file.read(CHUNK):
                yield chunk

    def exists(self, sha256: str) -> bool:
        """Whether the file is there."""
        return self._path(sha256).is_file()

    def _path(self, sha256: str) -> Path:
        return self._root / "sha256" / sha256[:2] / sha256


class RemoteBlobs:
    """Blobs in S3, GCS, Azure or memory, through obstore.

    The blocking calls of obstore are used, from threads of ours: its asynchronous ones wake Python from
    threads that may still run while the interpreter shuts down.
    """

    def __init__(self, store: ObjectStore) -> None:
        self._store = store

    def commit(self, spool: Path, sha256: str) -> None:
        """Upload unless it is there (a conditional put)."""
        with suppress(AlreadyExistsError):
            obstore.put(self._store, self._key(sha256), spool, mode="create")

    def read(self, sha256: str) -> Iterator[bytes]:
        """Chunks of the object."""
        try:
            found = obstore.get(self._store, self._key(sha256))
        except FileNotFoundError:
            raise missing(sha256) from None
        for chunk in found.stream(min_chunk_size=CHUNK):
            whole = memoryview(chunk)
            for start in range(0, len(whole), CHUNK):
                yield bytes(whole[start : start + CHUNK])

    def exists(self, sha256: str) -> bool:
        """Whether the object is there."""
        try:
            obstore.head(self._store, self._key(sha256))
        except FileNotFoundError:
            return False
        return True

    def _key(self, sha256: str) -> str:
        return f"sha256/{sha256[:2]}/{sha256}"


class Spool:
    """A folder of files being written, on the same file system as the blobs they become."""

    def __init__(self, folder: Path, opener: Callable[[Path], BinaryIO] | None = None) -> None:
        self._folder = folder
        self._open = opener or _create
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if folder.stat().st_uid != os.geteuid():
            raise PlatformError(
                f"The folder {folder} belongs to somebody else, who could read what is uploaded.",
                code="spool_not_ours",
                fix="Remove it, or set TMPDIR to a folder of your own.",
            )
        for left in folder.iterdir():  # by a process that was killed
            with suppress(FileNotFoundError):
                if left.stat().st_mtime < time.time() - _STALE:
                    left.unlink()

    @contextmanager
    def file(self) -> Iterator[tuple[Path, BinaryIO]]:
        """A new file that is gone afterwards: commit it before."""
        path = self._folder / uuid.uuid4().hex
        try:
            with storage_errors(), self._open(path) as file:
                yield path, file
        finally:
            with suppress(FileNotFoundError):
                path.unlink()


def finish(file: BinaryIO) -> None:
    """Bring what was written to the disk."""
    file.flush()
    os.fsync(file.fileno())


def sync_folder(folder: Path) -> None:
    """Bring the names in a folder to the disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def missing(sha256: str) -> PlatformError:
    """The error for a blob that should be there."""
    return PlatformError(
        f"The artifact {sha256} is missing.",
        code="artifact_missing",
        fix="Restore the artifacts folder from a backup.",
    )


@contextmanager
def storage_errors() -> Iterator[None]:
    """Turn a full disk into an error that says so."""
    try:
        yield
    except OSError as error:
        if error.errno not in _FULL:
            raise
        raise PlatformError(
            "There is no space left where artifacts are stored.",
            code="storage_full",
            fix="Free some space or move the data folder to a larger disk, then try again.",
        ) from error


def _create(path: Path) -> BinaryIO:
    """A new file that only its owner may read: it holds customers' data."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    return cast("BinaryIO", os.fdopen(descriptor, "wb"))
