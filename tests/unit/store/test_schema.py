"""The migrations make exactly the tables that the code speaks of, on both databases."""

import asyncio
import sqlite3
import stat
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext

from graftwork.core.errors import InvalidRequest
from graftwork.store import Store
from graftwork.store.engine import _parse
from graftwork.store.migrate import configuration
from graftwork.store.tables import metadata


def _differences(conn: sa.Connection) -> list:
    context = MigrationContext.configure(conn, opts={"compare_type": True})
    return compare_metadata(context, metadata)


def _constraints(conn: sa.Connection) -> dict[str, set]:
    inspector = sa.inspect(conn)
    return {
        table: {
            ("pk", tuple(inspector.get_pk_constraint(table)["constrained_columns"])),
            *(("uq", tuple(u["column_names"])) for u in inspector.get_unique_constraints(table)),
            *(
                ("fk", tuple(f["constrained_columns"]), f["referred_table"])
                for f in inspector.get_foreign_keys(table)
            ),
            *(("ix", tuple(i["column_names"])) for i in inspector.get_indexes(table) if not i["unique"]),
        }
        for table in inspector.get_table_names()
        if table != "alembic_version"
    }


def _expected() -> dict[str, set]:
    names = lambda columns: tuple(c.name for c in columns)  # noqa: E731
    return {
        name: {
            ("pk", names(table.primary_key.columns)),
            *(("uq", names(u.columns)) for u in table.constraints if isinstance(u, sa.UniqueConstraint)),
            *(("fk", names(f.columns), f.referred_table.name) for f in table.foreign_key_constraints),
            *(("ix", names(i.columns)) for i in table.indexes),
        }
        for name, table in metadata.tables.items()
    }


async def test_the_migrated_schema_is_the_metadata(store: Store):
    async with store._writer.connect() as conn:
        assert await conn.run_sync(_differences) == []
        assert await conn.run_sync(_constraints) == _expected()


async def test_opening_again_changes_nothing(database_url: str):
    for _ in range(2):
        store = await Store.open(database_url)
        assert await store.generation() == 1
        await store.close()


@pytest.fixture(params=["sqlite", "postgres"])
def bare_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of a database without tables."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/new/store.db"
    return request.getfixturevalue("bare_postgres_url")


async def test_opening_an_empty_database_from_several_places_at_once(bare_url: str):
    url = bare_url
    stores = await asyncio.gather(*(Store.open(url) for _ in range(4)))
    assert [await store.generation() for store in stores] == [1] * 4
    for store in stores:
        await store.close()


async def test_revisions_can_be_undone(bare_url: str):
    store = await Store.open(bare_url)
    async with store._writer.begin() as conn:
        await conn.run_sync(lambda c: command.downgrade(configuration(c), "base"))
        assert await conn.run_sync(lambda c: sa.inspect(c).get_table_names()) == ["alembic_version"]
    await store.close()


async def test_sqlite_is_durable_and_private(sqlite_url: str, tmp_path: Path):
    path = tmp_path / "private.db"
    store = await Store.open(f"sqlite:///{path}")
    async with store.begin() as tx:
        pragmas = {
            name: await tx.session.scalar(sa.text(f"PRAGMA {name}"))
            for name in ("journal_mode", "synchronous", "foreign_keys")
        }
    assert pragmas == {"journal_mode": "wal", "synchronous": 2, "foreign_keys": 1}
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    async with store.read() as tx:
        with pytest.raises(sa.exc.OperationalError, match="readonly"):
            await tx.settings.put("a", 1)
    await store.close()
    with sqlite3.connect(path) as raw:
        assert raw.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    raw.close()


@pytest.mark.parametrize("url", ["", "mysql://localhost/x", "sqlite://", "sqlite:///:memory:", "not a url"])
async def test_urls_that_name_no_supported_database_are_refused(url: str):
    with pytest.raises(InvalidRequest) as caught:
        await Store.open(url)
    assert caught.value.code == "invalid_database_url"
    assert "sqlite:////" in caught.value.fix


@pytest.mark.parametrize("scheme", ["postgres", "postgresql", "postgresql+psycopg"])
def test_postgres_urls_may_be_spelt_in_several_ways(scheme: str):
    assert _parse(f"{scheme}://u:p@h/d").drivername == "postgresql+psycopg"
