"""Durable metering by group commit: each request waits for its row, waiting requests share a transaction.

A request's row is *open* (reserved) before an engine is called and *settled* before the last byte of the
answer goes out, so no answered request is unbilled whatever happens to this process. There is no tick: a
transaction starts as soon as the one before it has ended, with all that came in meanwhile.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass, field

from sqlalchemy.exc import SQLAlchemyError

from graftwork.core.errors import BudgetExceeded, GraftworkError, Unavailable
from graftwork.core.money import dollars
from graftwork.core.nouns import LedgerEntry
from graftwork.store import Settlement, Store, Tx

log = logging.getLogger(__name__)

BATCH = 512
"""Rows in one transaction at most."""


@dataclass(frozen=True, slots=True)
class Void:
    """A reservation to be released."""

    key: str


@dataclass(slots=True)
class _Waiting:
    op: LedgerEntry | Settlement | Void
    done: asyncio.Future[None] = field(default_factory=lambda: asyncio.get_running_loop().create_future())

    def end(self, error: GraftworkError | None = None) -> None:
        if self.done.done():  # whoever waited was cancelled; the row is written all the same
            return
        if error is None:
            self.done.set_result(None)
        else:
            self.done.set_exception(error)


class LedgerWriter:
    """Writes ledger rows in batches.

    Args:
        store: the database.
        cap: a project's spending cap in micro-dollars, None without one.
    """

    def __init__(self, store: Store, cap: Callable[[str], int | None]) -> None:
        self._store = store
        self._cap = cap
        self._queue: list[_Waiting] = []
        self._task: asyncio.Task[None] | None = None
        self.commits = 0

    async def reserve(self, entry: LedgerEntry) -> None:
        """Return once the open row is durable.

        Raises:
            BudgetExceeded: the project's cap would be passed; nothing is written.
            Unavailable: the ledger cannot be written; nothing may be spent.
        """
        await self._submit(entry)

    async def settle(self, settlement: Settlement) -> None:
        """Return once the row is settled durably; of two settlements of one key the first counts.

        Raises:
            Unavailable: the ledger cannot be written; the row stays open.
        """
        await self._submit(settlement)

    async def void(self, key: str) -> None:
        """Return once the reservation is released durably; a settled row stays as it is.

        Raises:
            Unavailable: the ledger cannot be written; the row stays open.
        """
        await self._submit(Void(key))

    async def close(self) -> None:
        """Return once everything submitted is written."""
        while self._task is not None and not self._task.done():
            await self._task

    async def _submit(self, op: LedgerEntry | Settlement | Void) -> None:
        waiting = _Waiting(op)
        self._queue.append(waiting)
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._drain())
        await waiting.done

    async def _drain(self) -> None:
        while self._queue:
            batch, self._queue = self._queue[:BATCH], self._queue[BATCH:]
            try:
                refused = await self._commit(batch)
            except (SQLAlchemyError, OSError) as error:
                log.error("the ledger cannot be written: %s", error)
                for waiting in batch:
                    waiting.end(_unwritable())
                continue
            for waiting in batch:
                waiting.end(refused.get(id(waiting)))

    async def _commit(self, batch: list[_Waiting]) -> dict[int, BudgetExceeded]:
        async with self._store.begin() as tx:
            # Settled before balances are locked: the order in which all transactions take their locks.
            await tx.ledger.settle_many([w.op for w in batch if isinstance(w.op, Settlement)])
            voids = [w.op.key for w in batch if isinstance(w.op, Void)]
            if voids:
                now = await tx.now()
                for key in sorted(voids):
                    await tx.ledger.void(key, now)
            refused = await self._reserve(tx, batch)
        self.commits += 1
        return refused

    async def _reserve(self, tx: Tx, batch: list[_Waiting]) -> dict[int, BudgetExceeded]:
        """Write the reservations that fit their projects' caps; errors for the others."""
        caps = {w.op.project_id: self._cap(w.op.project_id) for w in batch if isinstance(w.op, LedgerEntry)}
        if any(cap is not None for cap in caps.values()):
            await tx.ledger.lock(caps)
        refused: dict[int, BudgetExceeded] = {}
        left: dict[str, int] = {}
        entries: list[LedgerEntry] = []
        for waiting in batch:
            entry = waiting.op
            if not isinstance(entry, LedgerEntry):
                continue
            cap = caps[entry.project_id]
            if cap is not None:
                if entry.project_id not in left:
                    left[entry.project_id] = cap - await tx.ledger.spent(entry.project_id)
                if entry.amount > left[entry.project_id]:
                    refused[id(waiting)] = _over(cap, cap - left[entry.project_id], entry.amount)
                    continue
                left[entry.project_id] -= entry.amount
            entries.append(entry)
        await tx.ledger.reserve_many(entries)
        return refused


def _over(cap: int, spent: int, amount: int) -> BudgetExceeded:
    return BudgetExceeded(
        f"This request may cost {dollars(amount)}, and of the project's budget of {dollars(cap)} "
        f"{dollars(spent)} are spent or reserved.",
        fix="Raise the budget, or ask for fewer tokens (max_tokens).",
        code="insufficient_quota",
    )


def _unwritable() -> Unavailable:
    return Unavailable(
        "The request cannot be accounted for now, so it is not answered.",
        fix="Try again in a second.",
        code="ledger_unavailable",
    )
