"""What makes a data folder one installation: its lock, its secrets, its name."""

from __future__ import annotations

import fcntl
import os
import secrets
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from graftwork.core.errors import Conflict, InvalidRequest
from graftwork.core.ids import new_id, slug
from graftwork.store import Tx

FIRST_KEY = "first_key"
_PEPPER = "pepper"
_INSTALL = "install"


@contextmanager
def locked(data: Path) -> Generator[None]:
    """Hold the data folder for this process alone; the lock ends with the process, however it ends.

    Raises:
        Conflict: another server has it (``data_dir_in_use``).
        InvalidRequest: it cannot be made or written to (``data_dir_unusable``).
    """
    try:
        data.mkdir(mode=0o700, parents=True, exist_ok=True)
        handle = os.open(data / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        raise InvalidRequest(
            f"The data folder {data} cannot be used: {error.strerror}.",
            fix="Name a folder that this user can write to.",
            code="data_dir_unusable",
            param="data",
        ) from error
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.read(handle, 32).decode(errors="replace").strip() or "unknown"
            raise Conflict(
                f"Another server (process {holder}) is using {data}.",
                fix="Stop it first, or give this one another data folder.",
                code="data_dir_in_use",
            ) from None
        os.ftruncate(handle, 0)
        os.write(handle, f"{os.getpid()}\n".encode())
        yield
    finally:
        os.close(handle)


class Secrets:
    """Small secret files of a data folder, readable by their owner alone."""

    def __init__(self, data: Path) -> None:
        self._folder = data / "secrets"
        self._folder.mkdir(mode=0o700, exist_ok=True)

    def pepper(self) -> bytes:
        """The key under which API keys are hashed; made at the first start."""
        text = self.read(_PEPPER)
        if text is None:
            text = self.write(_PEPPER, secrets.token_hex(32))
        return bytes.fromhex(text)

    def read(self, name: str) -> str | None:
        """A secret, or None."""
        try:
            return (self._folder / name).read_text().strip()
        except FileNotFoundError:
            return None

    def write(self, name: str, text: str) -> str:
        """Write a secret whole; returns it."""
        fresh = self._folder / f".{name}.new"
        handle = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(handle, "w") as file:
            file.write(text + "\n")
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(self._folder / name)
        return text


async def install_id(tx: Tx) -> str:
    """The installation's id, part of every machine's name; made at the first start."""
    return str(await tx.settings.put_new(_INSTALL, slug(new_id("", 8))))
