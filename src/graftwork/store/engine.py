"""Opening a database: SQLite with one writer, or PostgreSQL, on the newest revision of the schema."""

from __future__ import annotations

import os
import sqlite3
import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, closing, suppress
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, event, select
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from graftwork.core.errors import InvalidRequest, PlatformError
from graftwork.store.ledger import add_spending
from graftwork.store.migrate import upgrade
from graftwork.store.session import bump_generation
from graftwork.store.tables import generation
from graftwork.store.tx import Tx

_READERS = 4
_POSTGRES_CONNECTIONS = 8
_WAIT = 60.0
"""Seconds a transaction waits for its turn before it gives up."""


class Store:
    """The database. ``begin`` for transactions that write, ``read`` for those that only look.

    On SQLite there is one writer at a time (``BEGIN IMMEDIATE`` on its own connection), and readers never
    wait for it. A transaction must not be opened inside another one of the same task.
    """

    def __init__(
        self, writer: AsyncEngine, reader: AsyncEngine, clock: Callable[[], float] | None = None
    ) -> None:
        self._writer = writer
        self._reader = reader
        self._clock = clock

    @classmethod
    async def open(cls, url: str, *, clock: Callable[[], float] | None = None) -> Store:
        """Open ``sqlite:////path/file.db`` or ``postgresql://user:password@host/name``; upgrade the schema.

        Args:
            url: where the database is; the driver is chosen here.
            clock: for tests: counts instead of the database's clock.

        Raises:
            InvalidRequest: the URL names no database that is supported (code ``invalid_database_url``).
            PlatformError: the driver for PostgreSQL is not installed (code ``driver_missing``).
        """
        parsed = _parse(url)
        if parsed.get_backend_name() == "sqlite":
            writer, reader = _sqlite(parsed)
        else:
            writer = reader = _postgres(parsed)
        store = cls(writer, reader, clock)
        try:
            async with writer.begin() as conn:
                await conn.run_sync(upgrade)
        except BaseException:
            await store.close()
            raise
        return store

    async def close(self) -> None:
        """Close all connections."""
        await self._writer.dispose()
        if self._reader is not self._writer:
            await self._reader.dispose()

    @asynccontextmanager
    async def begin(self) -> AsyncIterator[Tx]:
        """One transaction that may write: commits at the end, rolls back on an error."""
        async with self._writer.begin() as conn:
            tx = Tx(conn, self._clock)
            yield tx
            await add_spending(tx.session)
            if tx.session.changed:
                await bump_generation(tx.session)

    @asynccontextmanager
    async def read(self) -> AsyncIterator[Tx]:
        """One transaction that sees the database as it was at its first query."""
        async with self._reader.connect() as conn:
            if conn.dialect.name == "postgresql":
                await conn.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)
            async with conn.begin():
                yield Tx(conn, self._clock)

    async def generation(self) -> int:
        """The number of the newest change that the gateway's snapshot depends on."""
        async with self._reader.connect() as conn:
            return int((await conn.execute(select(generation.c.value))).scalar_one())


def _parse(url: str) -> URL:
    fix = "Use sqlite:////path/to/file.db or postgresql://user:password@host/name."
    try:
        parsed = make_url(url)
    except ArgumentError:
        raise InvalidRequest(
            "The database URL cannot be read.", code="invalid_database_url", fix=fix
        ) from None
    backend = "postgresql" if parsed.drivername == "postgres" else parsed.drivername.split("+")[0]
    if backend not in {"sqlite", "postgresql"}:
        raise InvalidRequest(
            f"The database {backend!r} is not supported.", code="invalid_database_url", fix=fix
        )
    if backend == "sqlite" and (not parsed.database or parsed.database == ":memory:"):
        # Readers have their own connections: a database in memory would be another one for each.
        raise InvalidRequest("A SQLite database needs a file.", code="invalid_database_url", fix=fix)
    return parsed.set(drivername="sqlite+aiosqlite" if backend == "sqlite" else "postgresql+psycopg")


def _sqlite(url: URL) -> tuple[AsyncEngine, AsyncEngine]:
    _create_sqlite(Path(url.database or ""))
    writer = create_async_engine(url, pool_size=1, max_overflow=0, pool_timeout=_WAIT)
    reader = create_async_engine(url, pool_size=_READERS, max_overflow=0, pool_timeout=_WAIT)
    _on_sqlite(writer, begin="BEGIN IMMEDIATE", readonly=False)
    _on_sqlite(reader, begin="BEGIN", readonly=True)
    return writer, reader


def _create_sqlite(path: Path) -> None:
    """Make an empty database for its owner alone (it will hold digests of keys and the engines' tokens).

    It is made under another name and then linked: so it is in WAL mode before anybody can open it (two that
    switched at once would get "database is locked"), and the real file is never opened outside of SQLite,
    whose locks the closing of any descriptor of the file would drop.
    """
    if path.exists():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    os.close(descriptor)  # mkstemp gives mode 0600
    try:
        with closing(sqlite3.connect(name)) as connection:
            connection.execute("PRAGMA journal_mode = WAL")
        with suppress(FileExistsError):
            os.link(name, path)
    finally:
        Path(name).unlink()


def _on_sqlite(engine: AsyncEngine, *, begin: str, readonly: bool) -> None:
    """Set up connections, and begin transactions ourselves: the driver's own way begins them too late."""

    def connect(connection: Any, _record: Any) -> None:
        connection.isolation_level = None
        cursor = connection.cursor()
        cursor.execute(f"PRAGMA busy_timeout = {int(_WAIT * 1000)}")
        cursor.execute("PRAGMA journal_mode = WAL")
        cursor.execute("PRAGMA synchronous = FULL")
        cursor.execute("PRAGMA foreign_keys = ON")
        if readonly:
            cursor.execute("PRAGMA query_only = ON")
        cursor.close()

    def start(conn: Connection) -> None:
        conn.exec_driver_sql(begin)

    event.listen(engine.sync_engine, "connect", connect)
    event.listen(engine.sync_engine, "begin", start)


def _postgres(url: URL) -> AsyncEngine:
    try:
        return create_async_engine(
            url, pool_size=_POSTGRES_CONNECTIONS, max_overflow=0, pool_timeout=_WAIT, pool_pre_ping=True
        )
    except ImportError as error:
        raise PlatformError(
            "The driver for PostgreSQL is not installed.",
            code="driver_missing",
            fix="Install it with: pip install 'graftwork[postgres]'",
        ) from error
