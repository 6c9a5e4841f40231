"""Bills and usage on the wire. Money is integer micro-dollars (``…_micro``), with text for people beside."""

from __future__ import annotations

from typing import Any

from graftwork.api.wire.base import Wire
from graftwork.billing import MACHINE, Bill, BillLine, Budget
from graftwork.core.money import dollars
from graftwork.core.nouns import LedgerEntry

Json = dict[str, Any]

_TOKENS = ("trained_tokens", "prompt_tokens", "completion_tokens")


class LineWire(Wire):
    """A sum over ledger entries of one kind, model and version of the prices."""

    kind: str
    model: str | None
    entries: int
    quantity: float | int
    """All that was counted, in ``unit``."""
    unit: str
    quantities: Json
    """The single counts."""
    price_version: str
    unit_price: str
    """For people; ``-`` where the version of the prices is not known any more."""
    amount_micro: int
    amount: str
    reserved_micro: int


class BudgetWire(Wire):
    """A spending cap and what is used of it; nulls where there is none."""

    cap_micro: int | None
    spent_micro: int
    left_micro: int | None


class BillWire(Wire):
    """A project's bill."""

    project_id: str
    since: float | None
    until: float | None
    lines: list[LineWire]
    total_micro: int
    total: str
    reserved_micro: int
    budget: BudgetWire


class Usage(Wire):
    """One ledger entry."""

    id: str
    kind: str
    state: str
    amount_micro: int
    quantity: Json
    price_version: str
    refs: Json
    created_at: float
    settled_at: float | None


def bill_wire(bill: Bill, budget: Budget) -> BillWire:
    """A bill for its owner."""
    return BillWire(
        project_id=bill.project_id,
        since=bill.since,
        until=bill.until,
        lines=[_line(line) for line in bill.lines],
        total_micro=bill.total,
        total=dollars(bill.total),
        reserved_micro=bill.reserved,
        budget=BudgetWire(cap_micro=budget.cap, spent_micro=budget.spent, left_micro=budget.left),
    )


def usage_wire(entry: LedgerEntry) -> Usage:
    """A ledger entry for its owner."""
    return Usage(
        id=entry.key,
        kind=entry.kind,
        state=str(entry.state),
        amount_micro=entry.amount,
        quantity=entry.quantity,
        price_version=entry.price_version,
        refs=entry.refs,
        created_at=entry.created_at,
        settled_at=entry.settled_at,
    )


def _line(line: BillLine) -> LineWire:
    machine = line.kind == MACHINE
    counted = ("seconds",) if machine else _TOKENS
    return LineWire(
        kind=line.kind,
        model=line.model,
        entries=line.entries,
        quantity=round(sum(line.quantity.get(name, 0) for name in counted), 3),
        unit="seconds" if machine else "tokens",
        quantities=line.quantity,
        price_version=line.price_version,
        unit_price=", ".join(f"{dollars(p.amount)} / {p.unit}" for p in line.prices) or "-",
        amount_micro=line.amount,
        amount=dollars(line.amount),
        reserved_micro=line.reserved,
    )
