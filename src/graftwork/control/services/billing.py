"""Bills, usage and budgets: sums over the ledger."""

from __future__ import annotations

from graftwork.billing import Bill, Budget, bill, budget_of
from graftwork.core.errors import InvalidRequest, NotFound
from graftwork.core.nouns import LedgerEntry
from graftwork.store import Page, Store


class BillingService:
    """What a project owes, for what, and what it may still spend."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def bill(self, project_id: str, *, since: float | None = None, until: float | None = None) -> Bill:
        """The project's bill over [since, until): one line for each kind, model and version of the prices."""
        async with self._store.read() as tx:
            return await bill(tx, project_id, since, until)

    async def usage(
        self,
        project_id: str,
        *,
        since: float | None = None,
        until: float | None = None,
        after: str | None = None,
        limit: int = 100,
    ) -> Page[LedgerEntry]:
        """The single entries behind the bill, newest first; ``after`` is the key of the last one seen."""
        async with self._store.read() as tx:
            return await tx.ledger.list(project_id, since=since, until=until, after=after, limit=limit)

    async def budget(self, project_id: str) -> Budget:
        """The project's cap and what is used of it.

        Raises:
            NotFound: no such project.
        """
        async with self._store.read() as tx:
            return await budget_of(tx, project_id)

    async def set_budget(self, project_id: str, cap: int | None) -> Budget:
        """Cap what the project may spend over its life, in micro-dollars; None takes the cap away.

        Raises:
            InvalidRequest: a negative cap.
            NotFound: no such project.
        """
        if cap is not None and cap < 0:
            raise InvalidRequest("A budget cannot be negative.", fix="Send 0 or more.", param="budget")
        async with self._store.begin() as tx:
            if not await tx.projects.set_budget(project_id, cap):
                raise NotFound(f"There is no project {project_id!r}.", code="project_not_found")
            return await budget_of(tx, project_id)
