"""Budgets: nothing is reserved past a project's cap."""

from __future__ import annotations

from dataclasses import dataclass

from graftwork.core.errors import BudgetExceeded, NotFound
from graftwork.core.money import dollars
from graftwork.core.nouns import LedgerEntry
from graftwork.store import Tx


@dataclass(frozen=True, slots=True)
class Budget:
    """A project's cap and what is used of it, in micro-dollars."""

    cap: int | None
    spent: int
    """Settled and reserved."""

    @property
    def left(self) -> int | None:
        """What may still be spent; None without a cap."""
        return None if self.cap is None else max(0, self.cap - self.spent)

    def require(self, amount: int) -> None:
        """Raise unless ``amount`` fits.

        Raises:
            BudgetExceeded: it does not (code ``budget_exceeded``), saying how much is left.
        """
        if self.cap is not None and self.spent + amount > self.cap:
            raise BudgetExceeded(
                f"This costs up to {dollars(amount)}, but only {dollars(self.left or 0)} is left of the "
                f"project's budget of {dollars(self.cap)}.",
                fix="Raise the project's budget, or ask for less.",
                details={"needed": amount, "left": self.left, "budget": self.cap, "spent": self.spent},
            )


async def budget_of(tx: Tx, project_id: str, *, lock: bool = False) -> Budget:
    """A project's budget. With ``lock`` nobody else reserves for it until the transaction ends.

    Raises:
        NotFound: there is no such project (code ``project_not_found``).
    """
    spent = await tx.ledger.spent(project_id, lock=lock)
    project = await tx.projects.get(project_id)
    if project is None:
        raise NotFound(f"There is no project {project_id!r}.", code="project_not_found")
    return Budget(project.budget, spent)


async def reserve(tx: Tx, entry: LedgerEntry) -> bool:
    """Reserve money if the project's budget allows; False if this very entry is there already.

    Raises:
        BudgetExceeded: it does not.
    """
    if await tx.ledger.get(entry.key) is not None:
        return False
    (await budget_of(tx, entry.project_id, lock=True)).require(entry.amount)
    return await tx.ledger.reserve(entry)
