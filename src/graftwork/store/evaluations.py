"""Evaluations: what was measured, and the gate's verdict."""

from __future__ import annotations

from graftwork.core.nouns import Evaluation
from graftwork.store.session import Repository
from graftwork.store.tables import evaluations


class Evaluations(Repository):
    """Evaluations of weights."""

    async def create(self, evaluation: Evaluation) -> bool:
        """Add an evaluation; the same id again is a no-op (False)."""
        return await self._insert_new(evaluations, evaluation)

    async def get(self, project_id: str, id: str) -> Evaluation | None:
        """The project's evaluation."""
        return await self._one(
            Evaluation, evaluations, evaluations.c.project_id == project_id, evaluations.c.id == id
        )

    async def for_job(self, job_id: str) -> Evaluation | None:
        """The newest evaluation of a job's weights. The caller has checked that the job is the tenant's."""
        found = await self._all(
            Evaluation,
            evaluations,
            evaluations.c.job_id == job_id,
            order=[evaluations.c.created_at.desc(), evaluations.c.id.desc()],
            limit=1,
        )
        return found[0] if found else None
