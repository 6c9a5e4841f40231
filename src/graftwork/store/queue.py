"""The queue of jobs that wait for a machine, and what decides whose turn it is. For reconcilers."""

from __future__ import annotations

from sqlalchemy import func, or_, select

from graftwork.core.nouns import Job
from graftwork.core.states import EntryState, Phase, Want
from graftwork.store.session import Items, Repository
from graftwork.store.tables import jobs, ledger


class Queue(Repository):
    """Looks across projects; no tenant is checked."""

    async def waiting(self, limit: int = 500) -> Items[Job]:
        """Jobs of all projects that wait for a machine, oldest first."""
        queued = (jobs.c.phase == Phase.QUEUED, jobs.c.want == Want.RUN)
        return await self._all(Job, jobs, *queued, order=[jobs.c.created_at, jobs.c.id], limit=limit)

    async def given(self, kind: str, at: float) -> dict[str, int]:
        """Trained tokens by project, in entries of ``kind``: settled since ``at``, or reserved and open."""
        counted = func.sum(self._session.json_number(ledger.c.quantity, "trained_tokens"))
        recent = or_(ledger.c.state == EntryState.OPEN, ledger.c.settled_at >= at)
        states = (ledger.c.kind == kind, ledger.c.state != EntryState.VOID, recent)
        statement = select(ledger.c.project_id, counted.label("tokens")).where(*states)
        rows = await self._session.rows(statement.group_by(ledger.c.project_id))
        return {row.project_id: int(row.tokens or 0) for row in rows}
