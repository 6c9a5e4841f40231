"""Where jobs and machines meet the ledger: reserve before spending, settle once after, by key (law 5)."""

from __future__ import annotations

from graftwork.control.plan import JobPlan, Quote
from graftwork.core.errors import BudgetExceeded, PlatformError
from graftwork.core.money import dollars, seconds_cost, tokens_cost
from graftwork.core.nouns import Job, LedgerEntry, Machine
from graftwork.core.states import EntryState
from graftwork.store import Tx

TOKENS = "training_tokens"
SECONDS = "machine_seconds"


def tokens_key(job_id: str) -> str:
    """The ledger key of a job's trained tokens: however often a job is tried, there is one."""
    return f"job:{job_id}:trained_tokens"


def machine_key(name: str) -> str:
    """The ledger key of a machine's seconds."""
    return f"machine:{name}:seconds"


async def tokens_reservation(tx: Tx, job: Job, plan: JobPlan, now: float) -> None:
    """Hold what the job's tokens are expected to cost. A second attempt finds it held already.

    Raises:
        BudgetExceeded: the project's budget does not allow it.
    """
    quote = quote_of(job, plan)
    entry = LedgerEntry(
        key=tokens_key(job.id),
        project_id=job.project_id,
        kind=TOKENS,
        state=EntryState.OPEN,
        amount=quote.amount,
        quantity={"trained_tokens": quote.tokens},
        price_version=quote.price_version,
        refs={"job": job.id, "model": job.base},
        created_at=now,
    )
    await _reserve(tx, entry)


async def machine_reservation(tx: Tx, job: Job, plan: JobPlan, machine: Machine) -> None:
    """Hold what the machine is expected to cost.

    Raises:
        BudgetExceeded: the project's budget does not allow it.
    """
    quote = quote_of(job, plan)
    entry = LedgerEntry(
        key=machine_key(machine.name),
        project_id=job.project_id,
        kind=SECONDS,
        state=EntryState.OPEN,
        amount=seconds_cost(quote.seconds, machine.price_per_hour),
        quantity={"seconds": quote.seconds},
        price_version=f"{machine.provider}:{machine.price_per_hour}",
        refs={"job": job.id, "model": job.base, "machine": machine.name},
        created_at=machine.created_at,
    )
    await _reserve(tx, entry)


async def settle_tokens(tx: Tx, job: Job, plan: JobPlan, tokens: int, now: float) -> bool:
    """Charge the trained tokens; whether this was the one time. A job that never reserved owes nothing."""
    price = 0 if plan.quote is None else plan.quote.train_per_million
    owed = tokens_cost(tokens, price)
    return await tx.ledger.settle(tokens_key(job.id), owed, {"trained_tokens": tokens}, now)


async def settle_machine(tx: Tx, machine: Machine, seconds: float, now: float) -> bool:
    """Charge a machine's seconds; whether this was the one time."""
    whole = -(-int(seconds * 1000) // 1000)
    owed = seconds_cost(seconds, machine.price_per_hour)
    return await tx.ledger.settle(machine_key(machine.name), owed, {"seconds": whole}, now)


def quote_of(job: Job, plan: JobPlan) -> Quote:
    """What the job was promised to cost.

    Raises:
        PlatformError: it was never planned.
    """
    if plan.quote is None:
        raise PlatformError(f"Job {job.id} has no quote.", code="quote_missing")
    return plan.quote


async def _reserve(tx: Tx, entry: LedgerEntry) -> None:
    if await tx.ledger.get(entry.key) is not None:
        return
    spent = await tx.ledger.spent(entry.project_id, lock=True)
    project = await tx.projects.get(entry.project_id)
    cap = None if project is None else project.budget
    if cap is not None and spent + entry.amount > cap:
        raise BudgetExceeded(
            f"This would cost {dollars(entry.amount)}; {dollars(spent)} of the project's budget of "
            f"{dollars(cap)} is spent or reserved.",
            fix="Raise the budget, or ask for less.",
        )
    await tx.ledger.reserve(entry)
