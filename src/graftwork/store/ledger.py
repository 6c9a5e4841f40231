"""The ledger: append-only money and usage records, each unique by an idempotency key.

An entry is written *open* (a reservation) before money is spent and *settled* once afterwards, or written
settled at once. Nothing is ever counted twice: inserts ignore a key that is there, and only an open entry can
be settled or voided. What a project has spent (open and settled) is kept beside the ledger in the same
transaction.

So that no two transactions wait for each other, all take their locks in one order: first entries by key, then
balances by project, right before the commit. Who checks a budget locks balances earlier (``lock``), after
the last entry it settles, and adds new entries only from then on.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, TypeVar

from sqlalchemy import bindparam, case, func, or_, select, update

from graftwork.core.nouns import Json, LedgerEntry
from graftwork.core.states import EntryState
from graftwork.store.pages import Page, page
from graftwork.store.session import Items, Repository, Session, values
from graftwork.store.tables import balances, ledger

QUANTITIES = ("trained_tokens", "prompt_tokens", "completion_tokens", "seconds")
"""Counts that ``totals`` adds up; other keys of ``quantity`` are kept but not summed."""

T = TypeVar("T")
_BATCH = 500
"""Rows per statement: well under the databases' limits on bound values."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settlement:
    """What an open entry came to."""

    key: str
    amount: int
    quantity: Json
    at: float


@dataclass(frozen=True, slots=True, kw_only=True)
class LedgerTotal:
    """Entries of one kind, model and price version together."""

    kind: str
    model: str | None
    base: str | None
    price_version: str
    entries: int
    """How many were settled."""
    amount: int
    """Settled, in micro-dollars."""
    reserved: int
    """Still open, in micro-dollars."""
    quantity: dict[str, int | float]
    """Sums over what was settled."""


class Ledger(Repository):
    """Money and usage of projects."""

    async def reserve(self, entry: LedgerEntry) -> bool:
        """Write an open entry; False if its key is there already."""
        return bool(await self.reserve_many([entry]))

    async def reserve_many(self, entries: Sequence[LedgerEntry]) -> set[str]:
        """Write open entries; the keys that were new."""
        return await self._write(entries, EntryState.OPEN)

    async def record(self, entry: LedgerEntry) -> bool:
        """Write an entry that is settled from the start; False if its key is there already."""
        return bool(await self.record_many([entry]))

    async def record_many(self, entries: Sequence[LedgerEntry]) -> set[str]:
        """Write settled entries; the keys that were new."""
        return await self._write(entries, EntryState.SETTLED)

    async def settle(self, key: str, amount: int, quantity: Json, at: float) -> bool:
        """Turn an open entry into a settled one; False if it is not open (any more)."""
        return bool(await self.settle_many([Settlement(key=key, amount=amount, quantity=quantity, at=at)]))

    async def settle_many(self, settlements: Sequence[Settlement]) -> set[str]:
        """Settle open entries; the keys that were open. Of two settlements of one key the first counts."""
        wanted: dict[str, Settlement] = {}
        for settlement in settlements:
            wanted.setdefault(settlement.key, settlement)
        return await _close(self._session, wanted, EntryState.SETTLED)

    async def void(self, key: str, at: float) -> bool:
        """Release a reservation; False if it is not open (any more)."""
        released = Settlement(key=key, amount=0, quantity={}, at=at)
        return bool(await _close(self._session, {key: released}, EntryState.VOID))

    async def get(self, key: str) -> LedgerEntry | None:
        """One entry, of any project: for reconcilers."""
        return await self._one(LedgerEntry, ledger, ledger.c.key == key)

    async def spent(self, project_id: str, *, lock: bool = False) -> int:
        """Settled and open amounts of a project, in micro-dollars.

        With ``lock`` nobody else can reserve for the project until this transaction ends: check, then
        reserve. Who does so for several projects calls ``lock`` with all of them first.
        """
        if lock:
            await self.lock([project_id])
        balance = select(balances.c.spent).where(balances.c.project_id == project_id)
        stored = await self._session.scalar(balance)
        return int(stored or 0) + self._session.spending.get(project_id, 0)

    async def lock(self, project_ids: Iterable[str]) -> None:
        """Keep all others from reserving for these projects until this transaction ends."""
        for project_id in sorted({*project_ids, *self._session.spending}):
            await _add(self._session, project_id, 0)

    async def list(
        self,
        project_id: str,
        *,
        since: float | None = None,
        until: float | None = None,
        after: str | None = None,
        limit: int,
    ) -> Page[LedgerEntry]:
        """A page of entries created in [since, until), newest first; ``after`` is an entry's key."""
        mine = ledger.c.project_id == project_id
        scope = [mine]
        if since is not None:
            scope.append(ledger.c.created_at >= since)
        if until is not None:
            scope.append(ledger.c.created_at < until)
        return await page(
            self._session,
            LedgerEntry,
            ledger,
            scope,
            keys=("created_at", "key"),
            after=after,
            limit=limit,
            cursor_scope=[mine],
        )

    async def for_job(self, project_id: str, job_id: str) -> Items[LedgerEntry]:
        """What a job cost and reserved (entries with ``refs["job"]``), oldest first."""
        mine = (ledger.c.project_id == project_id, ledger.c.job_id == job_id)
        return await self._all(LedgerEntry, ledger, *mine, order=[ledger.c.created_at, ledger.c.key])

    async def totals(
        self, project_id: str, since: float | None = None, until: float | None = None
    ) -> Items[LedgerTotal]:
        """Sums of what was settled, and of what was reserved and is still open, in [since, until).

        By kind, model and price version; settled entries by the time of settling, so that what was settled in
        a period that is over never changes again.
        """
        settled, still_open = ledger.c.state == EntryState.SETTLED, ledger.c.state == EntryState.OPEN
        when = case((settled, ledger.c.settled_at), else_=ledger.c.created_at)
        where = [ledger.c.project_id == project_id, or_(settled, still_open)]
        if since is not None:
            where.append(when >= since)
        if until is not None:
            where.append(when < until)
        group = (ledger.c.kind, ledger.c.model, ledger.c.base, ledger.c.price_version)
        sums = [
            func.sum(case((settled, self._session.json_number(ledger.c.quantity, key)))).label(key)
            for key in QUANTITIES
        ]
        amounts = (
            func.sum(case((settled, 1), else_=0)).label("entries"),
            func.sum(case((settled, ledger.c.amount), else_=0)).label("amount"),
            func.sum(case((still_open, ledger.c.amount), else_=0)).label("reserved"),
        )
        statement = select(*group, *amounts, *sums).where(*where).group_by(*group).order_by(*group)
        return [
            LedgerTotal(
                kind=row.kind,
                model=row.model,
                base=row.base,
                price_version=row.price_version,
                entries=int(row.entries),
                amount=int(row.amount),
                reserved=int(row.reserved),
                quantity={
                    key: _plain(row._mapping[key]) for key in QUANTITIES if row._mapping[key] is not None
                },
            )
            for row in await self._session.rows(statement)
        ]

    async def open_before(self, at: float, limit: int | None = None) -> Items[LedgerEntry]:
        """Reservations made before ``at`` that were never settled, oldest first: for the sweeper."""
        old = (ledger.c.state == EntryState.OPEN, ledger.c.created_at < at)
        return await self._all(
            LedgerEntry, ledger, *old, order=[ledger.c.created_at, ledger.c.key], limit=limit
        )

    async def _write(self, entries: Sequence[LedgerEntry], state: EntryState) -> set[str]:
        written: set[str] = set()
        for batch in _batches(sorted(entries, key=lambda entry: entry.key)):
            rows = [{**_row(entry), "state": state} for entry in batch]
            if state is EntryState.SETTLED:
                rows = [{**row, "settled_at": row["settled_at"] or row["created_at"]} for row in rows]
            statement = self._session.insert(ledger).values(rows).on_conflict_do_nothing()
            new = await self._session.rows(
                statement.returning(ledger.c.key, ledger.c.project_id, ledger.c.amount)
            )
            _spend(self._session, [(row.project_id, row.amount) for row in new])
            written.update(row.key for row in new)
        return written


async def add_spending(session: Session) -> None:
    """Bring what this transaction spent to the balances, in one order for all writers: before the commit."""
    spending, session.spending = session.spending, {}
    for project_id in sorted(spending):
        await _add(session, project_id, spending[project_id])


async def _close(session: Session, wanted: dict[str, Settlement], state: EntryState) -> set[str]:
    """Close those of the entries that are open; their keys."""
    closed: set[str] = set()
    for batch in _batches(sorted(wanted)):  # one order for all: two writers cannot lock each other out
        is_open = (ledger.c.key.in_(batch), ledger.c.state == EntryState.OPEN)
        found = select(ledger.c.key, ledger.c.project_id, ledger.c.amount).where(*is_open)
        rows = await session.rows(found.order_by(ledger.c.key).with_for_update())
        if not rows:
            continue
        change = (
            update(ledger)
            .where(ledger.c.key == bindparam("entry"))
            .values(state=state, amount=bindparam("owed"), settled_at=bindparam("when"))
        )
        if state is EntryState.SETTLED:
            change = change.values(quantity=bindparam("counts"))
        await session.run(change, [_closing(wanted[row.key], state) for row in rows])
        _spend(session, [(row.project_id, wanted[row.key].amount - row.amount) for row in rows])
        closed.update(row.key for row in rows)
    return closed


def _spend(session: Session, amounts: Iterable[tuple[str, int]]) -> None:
    for project_id, amount in amounts:
        session.spending[project_id] = session.spending.get(project_id, 0) + amount


async def _add(session: Session, project_id: str, added: int) -> None:
    """Add to a balance, which stays locked until the transaction ends."""
    statement = session.insert(balances).values(project_id=project_id, spent=added)
    total = {"spent": balances.c.spent + added}
    await session.run(statement.on_conflict_do_update(index_elements=["project_id"], set_=total))


def _row(entry: LedgerEntry) -> dict[str, Any]:
    return {
        **values(entry),
        "model": entry.refs.get("model"),
        "base": entry.refs.get("base"),
        "job_id": entry.refs.get("job"),
    }


def _closing(settlement: Settlement, state: EntryState) -> dict[str, Any]:
    row: dict[str, Any] = {"entry": settlement.key, "owed": settlement.amount, "when": settlement.at}
    if state is EntryState.SETTLED:
        row["counts"] = settlement.quantity
    return row


def _batches(items: Sequence[T]) -> Iterable[list[T]]:
    rest = iter(items)
    while batch := list(islice(rest, _BATCH)):
        yield batch


def _plain(number: Any) -> int | float:
    value = float(number)
    return int(number) if value.is_integer() else value
