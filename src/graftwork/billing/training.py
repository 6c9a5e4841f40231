"""The money of a job: its trained tokens and its machines' seconds, each reserved once and settled once."""

from __future__ import annotations

from graftwork.billing.budgets import reserve
from graftwork.billing.prices import PriceBook
from graftwork.core.errors import BudgetExceeded
from graftwork.core.money import dollars, parse_dollars, seconds_cost, tokens_cost
from graftwork.core.nouns import LedgerEntry
from graftwork.core.specs import Spec
from graftwork.core.states import EntryState
from graftwork.store import Tx

TRAINING, MACHINE, INFERENCE = "training_tokens", "machine_seconds", "inference"
"""Kinds of ledger entries."""


class Quote(Spec):
    """What a job is promised to cost: at most this price for a token, whatever the price book says later."""

    price_version: str
    train_per_million: int
    """Micro-dollars."""
    tokens: int
    """Tokens expected to be trained."""
    amount: int
    """Micro-dollars for them."""


_HOUR = "hour:"


def price_of_version(version: str) -> int | None:
    """Micro-dollars an hour in the price version of a machine's entry: its offer's, not the price book's."""
    return int(version.removeprefix(_HOUR)) if version.startswith(_HOUR) else None


def quote(book: PriceBook, base: str, tokens: int, *, max_cost: str | None = None) -> Quote:
    """What training ``tokens`` tokens on ``base`` costs.

    Args:
        book: the prices.
        base: name of the base model.
        tokens: expected number.
        max_cost: the customer's own cap in dollars, such as ``"5"``.

    Raises:
        PlatformError: the base model has no price.
        BudgetExceeded: it costs more than ``max_cost`` (code ``max_cost_exceeded``).
    """
    price = book.model(base)
    amount = price.training_cost(tokens)
    if max_cost is not None and amount > parse_dollars(max_cost):
        raise BudgetExceeded(
            f"The job is expected to cost {dollars(amount)}, more than its max_cost of "
            f"{dollars(parse_dollars(max_cost))}.",
            code="max_cost_exceeded",
            param="max_cost",
            fix="Raise max_cost, train fewer epochs, or send fewer rows.",
        )
    return Quote(price_version=book.version, train_per_million=price.train, tokens=tokens, amount=amount)


def training_key(job_id: str) -> str:
    """The ledger key of a job's trained tokens: one for all attempts, so that they are billed once."""
    return f"job:{job_id}:trained_tokens"


def machine_key(name: str) -> str:
    """The ledger key of a machine's seconds."""
    return f"machine:{name}"


async def reserve_training(
    tx: Tx, *, project_id: str, job_id: str, base: str, quoted: Quote, at: float, model: str | None = None
) -> bool:
    """Reserve the quoted amount for a job's tokens; False if that was done before (by an earlier attempt).

    Raises:
        BudgetExceeded: the project's budget does not allow it.
    """
    entry = LedgerEntry(
        key=training_key(job_id),
        project_id=project_id,
        kind=TRAINING,
        state=EntryState.OPEN,
        amount=quoted.amount,
        quantity={"trained_tokens": quoted.tokens},
        price_version=quoted.price_version,
        refs={"job": job_id, "base": base, "model": model or base},
        created_at=at,
    )
    return await reserve(tx, entry)


async def settle_training(tx: Tx, *, job_id: str, quoted: Quote, tokens: int, at: float) -> int | None:
    """Settle a job's tokens at the quoted price; no tokens release the reservation.

    Returns:
        Micro-dollars billed by this call; None if the job was settled (or never reserved) before: whatever
        happens, it is billed once.
    """
    key = training_key(job_id)
    if tokens == 0:
        return 0 if await tx.ledger.void(key, at) else None
    amount = tokens_cost(tokens, quoted.train_per_million)
    return amount if await tx.ledger.settle(key, amount, {"trained_tokens": tokens}, at) else None


async def release_training(tx: Tx, *, job_id: str, at: float) -> bool:
    """Release a job's reservation: it trained nothing that is billed."""
    return await tx.ledger.void(training_key(job_id), at)


async def reserve_machine(
    tx: Tx,
    *,
    project_id: str,
    name: str,
    job_id: str,
    provider: str,
    price_per_hour: int,
    seconds: float,
    at: float,
) -> bool:
    """Reserve a machine's time before it is launched; False if that was done before.

    Raises:
        BudgetExceeded: the project's budget does not allow it.
    """
    entry = LedgerEntry(
        key=machine_key(name),
        project_id=project_id,
        kind=MACHINE,
        state=EntryState.OPEN,
        amount=seconds_cost(seconds, price_per_hour),
        quantity={"seconds": seconds},
        price_version=f"{_HOUR}{price_per_hour}",
        refs={"job": job_id, "machine": name, "provider": provider, "model": provider},
        created_at=at,
    )
    return await reserve(tx, entry)


async def settle_machine(tx: Tx, *, name: str, price_per_hour: int, seconds: float, at: float) -> int | None:
    """Settle a machine's time once it is gone, by the started second; one that never ran releases its money.

    Returns:
        Micro-dollars billed by this call; None if it was settled (or never reserved) before.
    """
    key = machine_key(name)
    if seconds <= 0:
        return 0 if await tx.ledger.void(key, at) else None
    amount = seconds_cost(seconds, price_per_hour)
    return amount if await tx.ledger.settle(key, amount, {"seconds": seconds}, at) else None
