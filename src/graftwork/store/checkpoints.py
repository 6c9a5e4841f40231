"""Checkpoints of jobs."""

from __future__ import annotations

from graftwork.core.nouns import Checkpoint
from graftwork.store.pages import Page, page
from graftwork.store.session import Repository
from graftwork.store.tables import checkpoints


class Checkpoints(Repository):
    """Checkpoints by job and step. The caller has checked that the job is the tenant's."""

    async def add(self, checkpoint: Checkpoint) -> bool:
        """Add a checkpoint; one of the same job and step again is a no-op (False)."""
        added = await self._insert_new(checkpoints, checkpoint)
        if added and checkpoint.weights is not None:
            self._touch()
        return added

    async def at_step(self, job_id: str, step: int) -> Checkpoint | None:
        """The job's checkpoint at a step."""
        return await self._one(
            Checkpoint, checkpoints, checkpoints.c.job_id == job_id, checkpoints.c.step == step
        )

    async def list(self, job_id: str, *, after: str | None = None, limit: int) -> Page[Checkpoint]:
        """A page of the job's checkpoints, newest (highest step) first; ``after`` is a checkpoint's id."""
        scope = [checkpoints.c.job_id == job_id]
        return await page(
            self._session, Checkpoint, checkpoints, scope, keys=("step",), after=after, limit=limit
        )
