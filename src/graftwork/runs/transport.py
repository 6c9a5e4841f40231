"""Where a run folder lives: whole objects under relative names, create-only but for two that are replaced.

The operations are those that a directory, an object store and a small HTTP server all have. Names are
relative POSIX paths; ``list`` sees objects, never half-written ones. Nothing is ever deleted.
"""

from __future__ import annotations

import errno
import os
import re
import shutil
import uuid
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import BinaryIO, Protocol
from urllib.parse import unquote, urlsplit

from graftwork.core.errors import Conflict, InvalidRequest, PlatformError

SUPPORTED = "a local path or file:///path"
_SCHEME = re.compile(r"^[A-Za-z][A-Za-z0-9+.-]+://")
_TEMPORARY = ".tmp"
_FULL = {errno.ENOSPC, errno.EDQUOT}


class AlreadyExists(Conflict):
    """An object of this name exists, and objects are created once."""

    code = "already_exists"


class Transport(Protocol):
    """Whole-object access to one run folder. Every call blocks; every write is atomic and durable on return.

    Errors of all operations: ``InvalidRequest`` (``code="invalid_path"``) for a name that is not a plain
    relative path; ``PlatformError`` with ``code="disk_full"`` when there is no room; ``OSError`` otherwise.
    """

    def read(self, path: str) -> bytes | None:
        """The object's bytes, or None when there is none."""
        ...

    def create(self, path: str, data: bytes) -> None:
        """Write a new object. Raises ``AlreadyExists``; of several racing writers exactly one succeeds."""
        ...

    def replace(self, path: str, data: bytes) -> None:
        """Write an object over whatever is there; a reader sees the old or the new bytes."""
        ...

    def list(self, prefix: str) -> list[str]:
        """Names of all objects below the folder ``prefix`` (``""``: all), sorted."""
        ...

    def put_file(self, path: str, local: Path) -> None:
        """``create`` from a local file of any size."""
        ...

    def get_file(self, path: str, local: Path) -> None:
        """Copy an object to a local file. Raises ``FileNotFoundError``."""
        ...


class LocalTransport:
    """A run folder in a directory. Temporary files lie in its ``.tmp`` and are never listed.

    Args:
        root: the directory; made by the first write.
        sync: makes an open file (or directory) durable, given its descriptor.
    """

    def __init__(self, root: Path, sync: Callable[[int], None] = os.fsync) -> None:
        self.root = Path(root)
        self._sync = sync

    def read(self, path: str) -> bytes | None:
        """The object's bytes, or None when there is none."""
        try:
            return self._place(path).read_bytes()
        except FileNotFoundError:
            return None

    def create(self, path: str, data: bytes) -> None:
        """Write a new object: temporary file, fsync, link (which fails if the name is taken)."""
        self._create(path, lambda file: file.write(data))

    def replace(self, path: str, data: bytes) -> None:
        """Write an object over whatever is there: temporary file, fsync, rename."""
        target = self._place(path)
        temporary = self._write(path, lambda file: file.write(data))
        try:
            self._parent(target)
            temporary.replace(target)
            self._sync_directory(target.parent)
        except OSError as error:
            temporary.unlink(missing_ok=True)
            raise _explained(error, path) from error

    def list(self, prefix: str) -> list[str]:
        """Names of all objects below the folder ``prefix`` (``""``: all), sorted."""
        top = self._place(prefix) if prefix else self.root
        names: list[str] = []
        for folder, folders, files in os.walk(top):
            here = Path(folder)
            if here == self.root and _TEMPORARY in folders:
                folders.remove(_TEMPORARY)
            names.extend((here / name).relative_to(self.root).as_posix() for name in files)
        return sorted(names)

    def put_file(self, path: str, local: Path) -> None:
        """``create`` from a local file of any size."""
        with local.open("rb") as source:
            self._create(path, lambda file: shutil.copyfileobj(source, file, 1 << 20))

    def get_file(self, path: str, local: Path) -> None:
        """Copy an object to a local file. Raises ``FileNotFoundError``."""
        try:
            shutil.copyfile(self._place(path), local)
        except OSError as error:
            raise _explained(error, path) from error

    def _create(self, path: str, fill: Callable[[BinaryIO], object]) -> None:
        target = self._place(path)
        if target.exists():
            raise _taken(path)
        temporary = self._write(path, fill)
        try:
            self._parent(target)
            os.link(temporary, target)
            self._sync_directory(target.parent)
        except FileExistsError:
            raise _taken(path) from None
        except OSError as error:
            raise _explained(error, path) from error
        finally:
            temporary.unlink(missing_ok=True)

    def _write(self, path: str, fill: Callable[[BinaryIO], object]) -> Path:
        folder = self.root / _TEMPORARY
        temporary = folder / uuid.uuid4().hex
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with temporary.open("xb") as file:
                fill(file)
                file.flush()
                self._sync(file.fileno())
        except OSError as error:
            temporary.unlink(missing_ok=True)
            raise _explained(error, path) from error
        return temporary

    def _place(self, path: str) -> Path:
        return self.root / checked(path)

    def _parent(self, target: Path) -> None:
        """Make the folders above ``target``, durably: a name in a lost folder would be lost too."""
        missing: list[Path] = []
        folder = target.parent
        while not folder.exists():
            missing.append(folder)
            folder = folder.parent
        for folder in reversed(missing):
            folder.mkdir(exist_ok=True)
            self._sync_directory(folder.parent)

    def _sync_directory(self, folder: Path) -> None:
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            self._sync(descriptor)
        finally:
            os.close(descriptor)


def open_transport(uri: str) -> Transport:
    """The transport of a run's URI.

    Raises:
        InvalidRequest: ``unsupported_transport``, for a scheme that there is no transport for.
    """
    if not _SCHEME.match(uri):
        return LocalTransport(Path(uri))
    parts = urlsplit(uri)
    if parts.scheme == "file" and parts.netloc in {"", "localhost"}:
        return LocalTransport(Path(unquote(parts.path)))
    raise InvalidRequest(
        f"There is no transport for run folders at {parts.scheme}://{parts.netloc}.",
        fix=f"Use {SUPPORTED}.",
        code="unsupported_transport",
        param="run",
    )


def checked(path: str) -> str:
    """``path`` itself, if it is a plain relative name that stays inside the folder.

    Raises:
        InvalidRequest: ``invalid_path`` for absolute names, ``..``, empty or hidden parts, backslashes.
    """
    parts = PurePosixPath(path).parts
    plain = "/".join(parts) == path and "\\" not in path and "\0" not in path
    if not parts or not plain or any(part.startswith((".", "/")) for part in parts):
        raise InvalidRequest(
            f"{path!r} is not a name inside a run folder.",
            fix="Use a relative path without '..', hidden or empty parts.",
            code="invalid_path",
        )
    return path


def _taken(path: str) -> AlreadyExists:
    return AlreadyExists(
        f"{path} exists already in the run folder.", fix="Objects of a run are written once."
    )


def _explained(error: OSError, path: str) -> Exception:
    """The error to raise instead: a full disk gets a code and a way out, the rest stays what it is."""
    if error.errno in _FULL:
        return PlatformError(
            f"There is no room on the device to write {path}.",
            fix="Free or add disk space and try again.",
            code="disk_full",
        )
    return error
