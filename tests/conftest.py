"""Databases for tests: every test that takes ``store`` runs on SQLite and on a real PostgreSQL.

One PostgreSQL cluster is started for the test session (binaries from PATH or Debian's folders, Unix socket only, as
another user when we are root, because PostgreSQL refuses root). Each test gets a fresh database, copied from a
template that was migrated once.
"""

from __future__ import annotations

import asyncio
import os
import pwd
import shutil
import subprocess
import tempfile
import time
import uuid
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import psycopg
import pytest

from graftwork.store import Store

DATABASES = ["sqlite", "postgres"]


def _binaries() -> Path:
    """The folder with ``initdb`` and ``postgres``."""
    found = shutil.which("initdb")
    if found:
        return Path(found).resolve().parent
    debian = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda p: int(p.parts[-3]))
    if not debian:
        pytest.fail("PostgreSQL is not installed; `make test` installs it (scripts/install_postgres.sh).")
    return debian[-1].parent


def _other_user() -> int | None:
    """The user to run PostgreSQL as, if we are root."""
    if os.geteuid() != 0:
        return None
    for name in ("postgres", "nobody"):
        try:
            return pwd.getpwnam(name).pw_uid
        except KeyError:
            continue
    pytest.fail("PostgreSQL refuses to run as root, and there is no user postgres or nobody to run it as.")


class Cluster:
    """A temporary PostgreSQL server."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="gw-pg-", dir="/tmp"))  # short: it holds the socket
        self.user = _other_user()
        if self.user is not None:
            os.chown(self.folder, self.user, -1)
        binaries, data = _binaries(), self.folder / "data"
        init = [binaries / "initdb", "-D", data, "-U", "postgres", "-A", "trust", "-E", "UTF8"]
        subprocess.run(
            [*init, "--locale=C", "--no-sync"],
            check=True,
            capture_output=True,
            user=self.user,
            cwd=self.folder,
        )
        settings = {
            "listen_addresses": "",
            "unix_socket_directories": str(self.folder),
            "fsync": "off",
            "full_page_writes": "off",
            "max_connections": "200",
            "shared_buffers": "32MB",
        }
        options = [part for key, value in settings.items() for part in ("-c", f"{key}={value}")]
        self.log = (self.folder / "log").open("wb")
        self.process = subprocess.Popen(
            [binaries / "postgres", "-D", data, *options],
            stdout=self.log,
            stderr=subprocess.STDOUT,
            user=self.user,
            cwd=self.folder,
        )
        self._await_ready()

    def url(self, database: str) -> str:
        """The URL of one database."""
        return f"postgresql://postgres@/{database}?host={self.folder}"

    def execute(self, statement: str) -> None:
        """Run a statement outside of any transaction."""
        with psycopg.connect(self.url("postgres"), autocommit=True) as connection:
            connection.execute(statement)  # pyright: ignore

    def stop(self) -> None:
        """Stop the server and remove its files."""
        self.process.terminate()
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.log.close()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _await_ready(self) -> None:
        deadline = time.monotonic() + 60
        while True:
            try:
                return self.execute("SELECT 1")
            except psycopg.OperationalError:
                if self.process.poll() is not None or time.monotonic() > deadline:
                    log = (self.folder / "log").read_text()
                    self.stop()
                    pytest.fail(f"PostgreSQL did not start:\n{log}")
                time.sleep(0.05)


@pytest.fixture(scope="session")
def postgres() -> Iterator[Cluster]:
    """A running PostgreSQL with a migrated database named ``template``."""
    cluster = Cluster()
    try:
        cluster.execute("CREATE DATABASE template")
        _migrate(cluster.url("template"))
        yield cluster
    finally:
        cluster.stop()


@pytest.fixture(scope="session")
def sqlite_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A migrated SQLite database."""
    path = tmp_path_factory.mktemp("template") / "store.db"
    _migrate(f"sqlite:///{path}")
    return path


def _migrate(url: str) -> None:
    async def migrate() -> None:
        await (await Store.open(url)).close()

    asyncio.run(migrate())


@pytest.fixture
def sqlite_url(tmp_path: Path, sqlite_template: Path) -> str:
    """The URL of a fresh, migrated SQLite database."""
    path = tmp_path / "store.db"
    shutil.copy(sqlite_template, path)
    return f"sqlite:///{path}"


@pytest.fixture
def postgres_url(postgres: Cluster) -> Iterator[str]:
    """The URL of a fresh, migrated PostgreSQL database."""
    name = f"t{uuid.uuid4().hex}"
    postgres.execute(f"CREATE DATABASE {name} TEMPLATE template")
    yield postgres.url(name)
    postgres.execute(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture(params=DATABASES)
def database_url(request: pytest.FixtureRequest) -> str:
    """The URL of a fresh, migrated database: the test runs once on each kind."""
    return request.getfixturevalue(f"{request.param}_url")


@pytest.fixture
async def store(database_url: str) -> AsyncIterator[Store]:
    """An open store on a fresh database: the test runs once on each kind."""
    opened = await Store.open(database_url)
    yield opened
    await opened.close()
