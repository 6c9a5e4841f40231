"""Bills: sums over the ledger, line by line."""

from __future__ import annotations

from dataclasses import dataclass

from graftwork.billing.prices import PriceBook, read_book
from graftwork.billing.training import INFERENCE, MACHINE, TRAINING, price_of_version
from graftwork.store import LedgerTotal, Tx


@dataclass(frozen=True, slots=True, kw_only=True)
class UnitPrice:
    """A price of one thing that is counted."""

    unit: str
    """``1M trained tokens``, ``1M prompt tokens``, ``1M completion tokens``, ``hour``."""
    amount: int
    """Micro-dollars."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BillLine:
    """One kind of thing, of one model, at one version of the prices."""

    kind: str
    model: str | None
    """The model that was trained on or called; the provider, for machines."""
    price_version: str
    entries: int
    quantity: dict[str, int | float]
    prices: tuple[UnitPrice, ...]
    """Empty where the price version is not known any more."""
    amount: int
    """Micro-dollars: the sum of the entries, each rounded up by itself."""
    reserved: int
    """Micro-dollars held for what is not settled yet; not part of ``amount``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bill:
    """What a project owes for a span of time."""

    project_id: str
    since: float | None
    until: float | None
    lines: tuple[BillLine, ...]

    @property
    def total(self) -> int:
        """Micro-dollars: the sum of the lines, which is the sum of the settled ledger entries."""
        return sum(line.amount for line in self.lines)

    @property
    def reserved(self) -> int:
        """Micro-dollars held for what is not settled yet."""
        return sum(line.reserved for line in self.lines)


async def bill(tx: Tx, project_id: str, since: float | None = None, until: float | None = None) -> Bill:
    """The bill of what was settled in [since, until), by kind, model and version of the prices."""
    totals = await tx.ledger.totals(project_id, since=since, until=until)
    books: dict[str, PriceBook] = {}
    for version in {total.price_version for total in totals}:
        books[version] = read_book(await tx.prices.get(version) or {})
    lines = tuple(_line(total, books[total.price_version]) for total in totals)
    return Bill(project_id=project_id, since=since, until=until, lines=lines)


def _line(total: LedgerTotal, book: PriceBook) -> BillLine:
    return BillLine(
        kind=total.kind,
        model=total.model,
        price_version=total.price_version,
        entries=total.entries,
        quantity=total.quantity,
        prices=_prices(total, book),
        amount=total.amount,
        reserved=total.reserved,
    )


def _prices(total: LedgerTotal, book: PriceBook) -> tuple[UnitPrice, ...]:
    if total.kind == MACHINE:
        hour = price_of_version(total.price_version)
        return () if hour is None else (UnitPrice(unit="hour", amount=hour),)
    model = book.models.get(total.base or "")
    if model is None:
        return ()
    if total.kind == TRAINING:
        return (UnitPrice(unit="1M trained tokens", amount=model.train),)
    if total.kind == INFERENCE:
        return (
            UnitPrice(unit="1M prompt tokens", amount=model.input),
            UnitPrice(unit="1M completion tokens", amount=model.output),
        )
    return ()
