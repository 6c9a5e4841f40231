"""Claims: a row of work belongs to one reconciler at a time, by a lease on the database's clock.

``claim`` hands out rows that are due and not leased; ``apply`` changes one only while the lease is still held
and the row has not been replaced under the holder. An ``apply`` that changes no row returns False, and its
caller throws the work away: somebody else owns the row now (law 2 of the design; the scheme is dstack's lock
token plus expiry).
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Generic, TypeVar

from sqlalchemy import ColumnElement, Table, case, literal, or_, select, update

from graftwork.store.session import Session, columns

T = TypeVar("T")

POKED = -1.0
"""``next_at`` of a row that must be looked at again at once, even if it is being worked on right now."""


@dataclass(frozen=True)
class Claim(Generic[T]):
    """A noun that is ours until ``until`` (the database's clock), as it was when it was loaded."""

    item: T
    token: str
    until: float

    def updated(self, **changes: Any) -> Claim[T]:
        """The same lease with the item as an ``apply`` left it: what the next ``apply`` is guarded by."""
        return replace(self, item=replace(self.item, **changes))  # type: ignore[type-var]


class Leases(Generic[T]):
    """Claiming, renewing, releasing and guarded changes of one table with lease columns."""

    def __init__(self, session: Session, table: Table, noun: type[T]) -> None:
        self._session = session
        self._table = table
        self._noun = noun

    async def claim(
        self, owner: str, *, limit: int, lease_seconds: float, where: Sequence[ColumnElement[bool]] = ()
    ) -> list[Claim[T]]:
        """Lease up to ``limit`` due rows, longest waiting first, past rows that are being claimed."""
        table = self._table
        now = await self._session.now()
        free = or_(table.c.lease_until.is_(None), table.c.lease_until <= now)
        due = (
            select(table.c.id)
            .where(*where, table.c.next_at <= now, free)
            .order_by(table.c.next_at, table.c.id)
            .limit(limit)
            .with_for_update(skip_locked=True)
        )
        ids = [row.id for row in await self._session.rows(due)]
        if not ids:
            return []
        token, until = uuid.uuid4().hex, now + lease_seconds
        lease = (
            update(table)
            .where(table.c.id.in_(ids))
            .values(
                lease_owner=owner,
                lease_token=token,
                lease_until=until,
                next_at=case((table.c.next_at < 0, literal(0.0)), else_=table.c.next_at),
            )
            .returning(*columns(self._noun, table))
        )
        items = {row.id: self._noun(**row._mapping) for row in await self._session.rows(lease)}
        return [Claim(items[id], token, until) for id in ids]

    async def renew(self, claim: Claim[T], id: str, seconds: float) -> bool:
        """Extend the lease to ``seconds`` from now; False if it was lost."""
        until = self._session.now_sql() + seconds
        return await self._session.count(self._held(claim, id).values(lease_until=until)) == 1

    async def release(self, claim: Claim[T], id: str, next_at: float) -> bool:
        """Give the row back, due at ``next_at`` (at once if it was poked); False if it was lost."""
        changes = {
            "lease_owner": None,
            "lease_token": None,
            "lease_until": None,
            "next_at": self._later(next_at),
        }
        return await self._session.count(self._held(claim, id).values(**changes)) == 1

    async def apply(
        self, claim: Claim[T], id: str, guard: Sequence[ColumnElement[bool]], changes: dict[str, Any]
    ) -> bool:
        """Change the row if the lease is held and ``guard`` still holds; whether it was changed."""
        if "next_at" in changes:
            changes = {**changes, "next_at": self._later(changes["next_at"])}
        # An apply without changes still asks whether the lease is held, and takes the row's lock.
        changes = changes or {"lease_token": claim.token}
        return await self._session.count(self._held(claim, id).where(*guard).values(**changes)) == 1

    def _held(self, claim: Claim[T], id: str) -> Any:
        table = self._table
        alive = table.c.lease_until > self._session.now_sql()
        return update(table).where(table.c.id == id, table.c.lease_token == claim.token, alive)

    def _later(self, next_at: float) -> ColumnElement[float]:
        return case((self._table.c.next_at < 0, self._table.c.next_at), else_=literal(float(next_at)))
