"""Databases for tests: every test that takes ``store`` runs on SQLite and on a real PostgreSQL.

One PostgreSQL cluster is started for the test session (binaries from PATH or Debian's folders, Unix socket
only, as another user when we are root, because PostgreSQL refuses root). Each test gets a migrated database
without rows: a copy of a SQLite file, or the cluster's own database, which is emptied after each test.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import pwd
import shutil
import subprocess
import tempfile
import time
import uuid
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from graftwork.core.nouns import Adapter, Job, Organization, Project, Version, Weights
from graftwork.core.states import Phase, Verdict, Want
from graftwork.store import Store
from graftwork.store.tables import metadata

DATABASES = ["sqlite", "postgres"]
SHARED = "shared"


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

    def empty(self, database: str) -> None:
        """Delete all rows of a migrated database, after ending connections that a test left open."""
        rows = "; ".join(f"DELETE FROM {table.name}" for table in reversed(metadata.sorted_tables))
        others = "FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
        with psycopg.connect(self.url(database)) as connection:
            connection.execute(f"SELECT pg_terminate_backend(pid) {others}")
            connection.execute(f"{rows}; INSERT INTO generation (id, value) VALUES (1, 1)")

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
    """A running PostgreSQL with a migrated database named ``SHARED``."""
    cluster = Cluster()
    try:
        cluster.execute(f"CREATE DATABASE {SHARED}")
        _migrate(cluster.url(SHARED))
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
    """The URL of a migrated PostgreSQL database without rows: one for all tests, emptied after each."""
    yield postgres.url(SHARED)
    postgres.empty(SHARED)


@pytest.fixture
def bare_postgres_url(postgres: Cluster) -> Iterator[str]:
    """The URL of a PostgreSQL database without any table."""
    name = f"t{uuid.uuid4().hex}"
    postgres.execute(f"CREATE DATABASE {name}")
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


class World:
    """Makes the rows that others hang on: fresh ids, plausible values, anything overridable."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.numbers = itertools.count(1)

    async def project(self, **fields: Any) -> Project:
        """A project in an organization of its own."""
        number = next(self.numbers)
        organization = Organization(id=f"org-{number}", name=f"acme{number}", created_at=1.0)
        given = {
            "id": f"proj_{number}",
            "organization_id": organization.id,
            "name": "main",
            "created_at": 1.0,
        }
        project = Project(**{**given, **fields})
        async with self.store.begin() as tx:
            await tx.organizations.create(organization)
            await tx.projects.create(project)
        return project

    def new_job(self, project_id: str, **fields: Any) -> Job:
        """A job that is not stored yet."""
        number = next(self.numbers)
        given: dict[str, Any] = {
            "id": f"ftjob-{number}",
            "project_id": project_id,
            "phase": Phase.QUEUED,
            "want": Want.RUN,
            "base": "seedling",
            "suffix": "support",
            "seed": 7,
            "training_file": "file-1",
            "validation_file": None,
            "asked": {"n_epochs": "auto"},
            "metadata": None,
            "integrations": None,
            "created_at": float(number),
        }
        return Job(**{**given, **fields})

    async def job(self, project_id: str, **fields: Any) -> Job:
        """A stored job."""
        async with self.store.begin() as tx:
            job, _ = await tx.jobs.create(self.new_job(project_id, **fields))
        return job

    async def weights(self, project_id: str, **fields: Any) -> Weights:
        """Stored weights."""
        given: dict[str, Any] = {
            "digest": f"{next(self.numbers):064x}",
            "project_id": project_id,
            "base": "seedling",
            "files": {"adapter_model.safetensors": "0" * 64},
            "probes": [{"tokens": [1, 2], "start": 1, "logprobs": [-0.5], "base_logprobs": [-2.0]}],
            "created_at": 1.0,
            "rank": 8,
        }
        weights = Weights(**{**given, **fields})
        async with self.store.begin() as tx:
            await tx.weights.create(weights)
        return weights

    async def adapter(self, project_id: str, name: str = "support", base: str = "seedling") -> Adapter:
        """A stored adapter."""
        async with self.store.begin() as tx:
            return await tx.adapters.ensure(project_id, name, base, 1.0)

    async def version(self, adapter: Adapter, **fields: Any) -> Version:
        """A stored version, with the job and the weights it came from."""
        job = await self.job(adapter.project_id)
        weights = await self.weights(adapter.project_id)
        number = next(self.numbers)
        given: dict[str, Any] = {
            "id": f"{number:064x}",
            "project_id": adapter.project_id,
            "adapter_id": adapter.id,
            "number": 0,
            "job_id": job.id,
            "weights": weights.digest,
            "model": f"ft:seedling:acme:{adapter.name}:{number}",
            "manifest": {"files": weights.files},
            "verdict": Verdict.PASS,
            "created_at": 1.0,
        }
        async with self.store.begin() as tx:
            return await tx.versions.create(Version(**{**given, **fields}))


@pytest.fixture
def world(store: Store) -> World:
    """Makes rows in ``store``."""
    return World(store)
