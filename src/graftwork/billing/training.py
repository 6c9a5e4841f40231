"""The money of a job: its trained tokens and its machines' seconds, each reserved once and settled once."""

from __future__ import annotations

from collections.abc import Mapping

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


def shared_key(name: str, job_id: str, fence: int) -> str:
    """The ledger key of the part of a shared machine that an attempt bears which came aboard later."""
    return f"{machine_key(name)}:{job_id}:{fence}"


def split(total: int, weights: Mapping[str, int]) -> dict[str, int]:
    """Divide ``total`` by ``weights`` into whole parts that add up to it exactly; equally if all are 0.

    What rounding leaves goes to the largest remainders, the first key first (Hamilton's method).
    """
    shares = dict(weights) if any(weights.values()) else dict.fromkeys(weights, 1)
    whole = sum(shares.values())
    parts = {key: total * share // whole for key, share in shares.items()}
    rest = sorted(shares, key=lambda key: (-(total * shares[key] % whole), key))
    for key in rest[: total - sum(parts.values())]:
        parts[key] += 1
    return parts


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
    key: str | None = None,
) -> bool:
    """Reserve a machine's time before it is launched; False if that was done before.

    ``key``: of a run that comes aboard later (``shared_key``). It reserves what it would need alone.

    Raises:
        BudgetExceeded: the project's budget does not allow it.
    """
    entry = LedgerEntry(
        key=key or machine_key(name),
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


async def settle_machine(
    tx: Tx,
    *,
    name: str,
    price_per_hour: int,
    seconds: float,
    at: float,
    parts: Mapping[str, int] | None = None,
) -> int | None:
    """Settle a machine's time once it is gone, by the started second; one that never ran releases its money.

    Args:
        parts: of a machine that several runs had: tokens trained there by ledger key. The machine's price is
            split by them, exactly; who trained nothing pays nothing, unless nobody did.

    Returns:
        Micro-dollars billed by this call; None if it was settled (or never reserved) before.
    """
    weights = parts or {machine_key(name): 1}
    if seconds <= 0:
        released = [await tx.ledger.void(key, at) for key in sorted(weights)]
        return 0 if any(released) else None
    amounts = split(seconds_cost(seconds, price_per_hour), weights)
    whole = sum(weights.values())
    billed: int | None = None
    for key in sorted(weights):
        share = weights[key] / whole if whole else 1 / len(weights)
        if share == 0:
            await tx.ledger.void(key, at)
        elif await tx.ledger.settle(key, amounts[key], {"seconds": seconds * share}, at):
            billed = (billed or 0) + amounts[key]
    return billed
