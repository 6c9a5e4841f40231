"""Files that a command writes for the user: whole or not at all, and never over something else."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from graftwork.core.errors import Conflict, InvalidRequest, PlatformError

_PIECE = 1 << 20


def unpack(whole: IO[bytes], folder: Path) -> Path:
    """Write the files of a zip into ``folder`` (made if need be); those there with equal content stay.

    Raises:
        Conflict: a file of one of these names has other content (code ``file_exists``); nothing was written.
        PlatformError: the zip is damaged, or holds names that are no plain file names.
    """
    try:
        with zipfile.ZipFile(whole) as archive:
            names = archive.namelist()
            if any(Path(name).name != name or name.startswith(".") for name in names):
                raise _damaged()
            missing = [name for name in names if not _same(archive, name, folder / name)]
            folder.mkdir(parents=True, exist_ok=True)
            for name in missing:
                _write(archive, name, folder / name)
    except zipfile.BadZipFile as error:
        raise _damaged() from error
    return folder


def write_new(files: Mapping[Path, bytes]) -> None:
    """Write files that are not there yet; all or none.

    Raises:
        Conflict: one of them is there (code ``file_exists``); nothing was written.
        InvalidRequest: its folder is not there (code ``no_such_folder``).
    """
    must_be_new(*files)
    for path, data in files.items():
        with whole_file(path) as part:
            part.write_bytes(data)


def must_be_new(*paths: Path) -> None:
    """Look, before any work is begun, whether files can be written when it is done.

    Raises:
        Conflict: one of them is there (code ``file_exists``).
        InvalidRequest: its folder is not there (code ``no_such_folder``).
    """
    for path in paths:
        if path.exists():
            raise Conflict(
                f"{path} is there already.",
                fix="Give another name with -o, or move the file away.",
                code="file_exists",
            )
        if not path.parent.is_dir():
            raise InvalidRequest(
                f"There is no folder {path.parent}.", fix="Make it, or give another.", code="no_such_folder"
            )


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Another name to write the file under; it gets its own once all is well, and is gone otherwise."""
    part = path.with_name(f".{path.name}.part")
    try:
        yield part
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def _same(archive: zipfile.ZipFile, name: str, path: Path) -> bool:
    """Whether the file is there with this content; False if it is not there."""
    if not path.exists():
        return False
    if path.is_file() and path.stat().st_size == archive.getinfo(name).file_size:
        with archive.open(name) as ours, path.open("rb") as theirs:
            while (piece := ours.read(_PIECE)) == theirs.read(_PIECE):
                if not piece:
                    return True
    raise Conflict(
        f"{path} is there already, with other content.",
        fix="Give another folder with --to, or move the file away.",
        code="file_exists",
    )


def _write(archive: zipfile.ZipFile, name: str, path: Path) -> None:
    with whole_file(path) as part, archive.open(name) as source, part.open("wb") as target:
        while piece := source.read(_PIECE):
            target.write(piece)


def _damaged() -> PlatformError:
    return PlatformError(
        "What the server sent is no archive of files.", fix="Try again.", code="bad_download"
    )
