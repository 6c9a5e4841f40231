"""The trainer's own log of a job: what it wrote to the run folder, as it wrote it."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from graftwork.core.errors import NotFound
from graftwork.core.nouns import Run
from graftwork.runs.reader import RunReader
from graftwork.runs.transport import open_transport
from graftwork.store import Store


@dataclass(frozen=True, slots=True)
class LogText:
    """A piece of a log."""

    attempt: int
    """Number of the attempt that wrote it; 0 before the first."""
    text: str
    cursor: int
    """Pass it on to get what follows."""


class LogsService:
    """Reads logs out of run folders."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def read(
        self, project_id: str, job_id: str, *, attempt: int | None = None, after: int = 0
    ) -> LogText:
        """What an attempt (the newest, unless named) has written after ``after``.

        Raises:
            NotFound: no such job in this project, or no such attempt of it.
        """
        async with self._store.read() as tx:
            if await tx.jobs.get(project_id, job_id) is None:
                raise NotFound(
                    f"No such job: {job_id!r}.",
                    fix="List the project's jobs to see their ids.",
                    code="job_not_found",
                )
            run = await tx.runs.latest(job_id) if attempt is None else await tx.runs.get(job_id, attempt)
        if run is None:
            if attempt is None:
                return LogText(0, "", 0)
            raise NotFound(f"Job {job_id!r} has no attempt {attempt}.", code="attempt_not_found")
        text, cursor = await asyncio.to_thread(_read, run, after)
        return LogText(run.fence, text, cursor)


def _read(run: Run, after: int) -> tuple[str, int]:
    return RunReader(open_transport(run.uri)).log(run.fence, after)
