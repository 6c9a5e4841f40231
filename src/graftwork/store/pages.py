"""Cursor pages: stable under inserts, because a cursor is a row and not an offset."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic, Literal, TypeVar

from sqlalchemy import ColumnElement, Table, select, tuple_

from graftwork.core.errors import InvalidRequest
from graftwork.store.session import Session, columns

T = TypeVar("T")
Order = Literal["asc", "desc"]


@dataclass(frozen=True)
class Page(Generic[T]):
    """Some items, and whether more follow."""

    items: list[T]
    has_more: bool


async def page(
    session: Session,
    noun: type[T],
    table: Table,
    scope: list[ColumnElement[bool]],
    *,
    keys: tuple[str, ...],
    after: str | None,
    limit: int,
    order: Order = "desc",
    cursor_scope: list[ColumnElement[bool]] | None = None,
) -> Page[T]:
    """The next ``limit`` rows of ``scope`` behind the row named ``after``, ordered by ``keys``.

    ``cursor_scope`` says where the cursor's row may lie if that is wider than ``scope`` (a row that was
    deleted between two pages is still a good cursor). The cursor is compared with the last of ``keys``,
    except that a table with an ``id`` column is looked up by it.

    Raises:
        InvalidRequest: ``after`` names no row of ``cursor_scope`` (code ``invalid_cursor``).
    """
    ordering = [table.c[key] for key in keys]
    where = list(scope)
    if after is not None:
        name = table.c["id"] if "id" in table.c else ordering[-1]
        inside = cursor_scope if cursor_scope is not None else scope
        found = (await session.run(select(*ordering).where(name == after, *inside))).first()
        if found is None:
            raise InvalidRequest(
                f"The cursor {after!r} names nothing in this list.",
                code="invalid_cursor",
                param="after",
                fix="Pass the id of the last item of the previous page.",
            )
        here, there = tuple_(*ordering), tuple_(*found)
        where.append(here > there if order == "asc" else here < there)
    statement = select(*columns(noun, table)).where(*where).limit(limit + 1)
    statement = statement.order_by(*(c.asc() if order == "asc" else c.desc() for c in ordering))
    items = [noun(**row._mapping) for row in await session.rows(statement)]
    return Page(items[:limit], len(items) > limit)
