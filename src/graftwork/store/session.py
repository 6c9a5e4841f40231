"""One open transaction: the connection, the clock that counts, and how rows become nouns."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias, TypeVar, cast

from sqlalchemy import (
    ColumnElement,
    Double,
    Executable,
    Row,
    Table,
    Update,
    func,
    literal,
    literal_column,
    select,
    update,
)
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import CursorResult
from sqlalchemy.ext.asyncio import AsyncConnection

from graftwork.store import tables

T = TypeVar("T")
Items: TypeAlias = list[T]
"""``list`` under a name that a repository's ``list`` method does not hide."""

_CLOCKS = {
    "sqlite": "(julianday('now') - 2440587.5) * 86400.0",
    "postgresql": "extract(epoch from clock_timestamp())::double precision",
}


class Session:
    """What repositories share inside one transaction.

    Attributes:
        conn: the connection, in a transaction.
        changed: whether something that the gateway's snapshot shows was changed; the store then raises its
            generation as the last statement before the commit, so that no two transactions wait for each
            other.
        spending: what is still to be added to projects' balances; the store adds it right before that, in
            the order of the projects, for the same reason.
    """

    def __init__(self, conn: AsyncConnection, clock: Callable[[], float] | None = None) -> None:
        self.conn = conn
        self.changed = False
        self.spending: dict[str, int] = {}
        self._clock = clock

    @property
    def postgres(self) -> bool:
        """Whether this is PostgreSQL (else SQLite)."""
        return self.conn.dialect.name == "postgresql"

    def now_sql(self) -> ColumnElement[float]:
        """The database's clock as an SQL expression, unix seconds."""
        if self._clock is not None:
            return literal(self._clock(), Double)
        return literal_column(_CLOCKS[self.conn.dialect.name], Double)

    async def now(self) -> float:
        """The database's clock, unix seconds."""
        if self._clock is not None:
            return self._clock()
        return float((await self.conn.execute(select(self.now_sql()))).scalar_one())

    def insert(self, table: Table) -> postgresql.Insert:
        """An insert that knows ``on_conflict_do_nothing`` and ``on_conflict_do_update`` on both databases."""
        if self.postgres:
            return postgresql.insert(table)
        return cast("postgresql.Insert", sqlite.insert(table))

    async def insert_new(self, table: Table, row: dict[str, Any]) -> bool:
        """Insert a row unless one with one of its unique keys is there; whether it was inserted."""
        statement = self.insert(table).values(**row).on_conflict_do_nothing()
        # Row counts of inserts are not reliable on both drivers; what comes back is.
        return (await self.run(statement.returning(*table.primary_key.columns))).first() is not None

    def json_number(self, column: ColumnElement[Any], key: str) -> ColumnElement[Any]:
        """The number under ``key`` (ours, never a caller's) of a JSON text column, or NULL."""
        if self.postgres:
            return literal_column(f"({column.table.name}.{column.name}::jsonb ->> '{key}')::numeric")  # type: ignore[attr-defined]
        return func.json_extract(column, f"$.{key}")

    async def run(
        self, statement: Executable, values: Sequence[dict[str, Any]] | None = None
    ) -> CursorResult[Any]:
        """Execute a statement (with many parameter sets, if given)."""
        result = await self.conn.execute(statement, values)
        return cast("CursorResult[Any]", result)

    async def rows(self, statement: Executable) -> Sequence[Row[Any]]:
        """All rows of a statement."""
        return (await self.run(statement)).all()

    async def scalar(self, statement: Executable) -> Any:
        """First column of the first row, or None."""
        return (await self.run(statement)).scalar()

    async def count(self, statement: Update) -> int:
        """Run an update; how many rows it changed."""
        return (await self.run(statement)).rowcount


def columns(noun: type[Any], table: Table) -> list[ColumnElement[Any]]:
    """The columns of ``table`` that make up ``noun``."""
    return [table.c[field.name] for field in dataclasses.fields(noun)]


def values(noun: Any) -> dict[str, Any]:
    """Field name to value of a noun, nested values as they are."""
    return {field.name: getattr(noun, field.name) for field in dataclasses.fields(noun)}


class Repository:
    """Base of the repositories: fetch nouns, insert them, change them."""

    def __init__(self, session: Session) -> None:
        self._session = session

    async def _one(
        self, noun: type[T], table: Table, *where: ColumnElement[bool], lock: bool = False
    ) -> T | None:
        statement = select(*columns(noun, table)).where(*where)
        if lock:
            statement = statement.with_for_update()  # SQLite has one writer and ignores it
        row = (await self._session.run(statement)).first()
        return None if row is None else noun(**row._mapping)

    async def _all(
        self,
        noun: type[T],
        table: Table,
        *where: ColumnElement[bool],
        order: Sequence[ColumnElement[Any]],
        limit: int | None = None,
    ) -> Items[T]:
        statement = select(*columns(noun, table)).where(*where).order_by(*order)
        if limit is not None:
            statement = statement.limit(limit)
        return [noun(**row._mapping) for row in await self._session.rows(statement)]

    async def _insert(self, table: Table, noun: Any, **extra: Any) -> None:
        await self._session.run(self._session.insert(table).values(**values(noun), **extra))

    async def _insert_new(self, table: Table, noun: Any, **extra: Any) -> bool:
        """Insert unless a row with one of its unique keys is there; whether it was inserted."""
        return await self._session.insert_new(table, {**values(noun), **extra})

    async def _change(self, table: Table, *where: ColumnElement[bool], **changes: Any) -> bool:
        return await self._session.count(update(table).where(*where).values(**changes)) > 0

    def _touch(self) -> None:
        self._session.changed = True


async def bump_generation(session: Session) -> None:
    """Raise the generation by one; the row stays locked until the commit, so numbers follow commit order."""
    counter = tables.generation
    await session.run(update(counter).where(counter.c.id == 1).values(value=counter.c.value + 1))
