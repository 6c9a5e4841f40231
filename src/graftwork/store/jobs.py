"""Jobs: created once, claimed by reconcilers, moved along the table of allowed moves."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sqlalchemy import ColumnElement, func, or_

from graftwork.core.errors import Conflict
from graftwork.core.ids import JOB
from graftwork.core.nouns import Job
from graftwork.core.states import TERMINAL, Phase, Want, check_move
from graftwork.store.claims import POKED, Claim, Leases
from graftwork.store.job_events import JobEvents
from graftwork.store.pages import Page, page
from graftwork.store.session import Items, Repository, Session
from graftwork.store.tables import jobs
from graftwork.store.types import dump_json

_UNFINISHED = jobs.c.phase.not_in(sorted(TERMINAL))


class Jobs(Repository):
    """Fine-tuning jobs of projects."""

    def __init__(self, session: Session) -> None:
        super().__init__(session)
        self._leases = Leases(session, jobs, Job)

    async def create(
        self, job: Job, idempotency_key: str | None = None, body_hash: str | None = None
    ) -> tuple[Job, bool]:
        """Add a job, or find the one that the same request made before.

        Returns:
            The job, and whether it was created now.

        Raises:
            Conflict: the key was used for another body (code ``idempotency_conflict``).
        """
        extra = {"idempotency_key": idempotency_key, "body_hash": body_hash, "events": 0}
        if idempotency_key is None:
            await self._insert(jobs, job, **extra)
            return job, True
        if await self._insert_new(jobs, job, **extra):
            return job, True
        same = (jobs.c.project_id == job.project_id, jobs.c.idempotency_key == idempotency_key)
        first = await self._one(Job, jobs, *same, jobs.c.body_hash.is_not_distinct_from(body_hash))
        if first is None:
            raise Conflict(
                "This Idempotency-Key was used before for a different request.",
                code="idempotency_conflict",
                fix="Send a new key for a new request, or the same body to get the first job again.",
            )
        return first, False

    async def get(self, project_id: str, id: str) -> Job | None:
        """The project's job."""
        return await self._one(Job, jobs, jobs.c.project_id == project_id, jobs.c.id == id)

    async def any_get(self, id: str) -> Job | None:
        """The job of any project: for reconcilers."""
        return await self._one(Job, jobs, jobs.c.id == id)

    async def by_tail(self, project_id: str, tail: str) -> Items[Job]:
        """The project's jobs whose id (behind its prefix) begins so: those an ``ft:`` name may mean."""
        mine = (jobs.c.project_id == project_id, jobs.c.id.startswith(JOB + tail, autoescape=True))
        found = await self._all(Job, jobs, *mine, order=[jobs.c.created_at, jobs.c.id])
        return [job for job in found if job.id.startswith(JOB + tail)]  # LIKE is blind to case on SQLite

    async def using_file(self, project_id: str, file_id: str) -> Job | None:
        """An unfinished job of the project that trains or validates on a file."""
        uses = or_(jobs.c.training_file == file_id, jobs.c.validation_file == file_id)
        mine = (jobs.c.project_id == project_id, uses, _UNFINISHED)
        found = await self._all(Job, jobs, *mine, order=[jobs.c.created_at, jobs.c.id], limit=1)
        return found[0] if found else None

    async def set_want(self, project_id: str, id: str, want: Want) -> bool:
        """Say what the owner wants and have it looked at now; False if there is no such unfinished job."""
        mine = (jobs.c.project_id == project_id, jobs.c.id == id)
        return await self._change(jobs, *mine, _UNFINISHED, want=want, next_at=POKED)

    async def poke(self, id: str) -> bool:
        """Have an unfinished job looked at now, even if it is being worked on: for reconcilers."""
        return await self._change(jobs, jobs.c.id == id, _UNFINISHED, next_at=POKED)

    async def claim(self, owner: str, limit: int = 1, lease_seconds: float = 30.0) -> Items[Claim[Job]]:
        """Lease up to ``limit`` unfinished jobs that are due."""
        return await self._leases.claim(owner, limit=limit, lease_seconds=lease_seconds, where=[_UNFINISHED])

    async def renew(self, claim: Claim[Job], seconds: float) -> bool:
        """Extend a lease; False if it was lost."""
        return await self._leases.renew(claim, claim.item.id, seconds)

    async def release(self, claim: Claim[Job], next_at: float) -> bool:
        """Give a job back until ``next_at``; False if the lease was lost."""
        return await self._leases.release(claim, claim.item.id, next_at)

    async def apply(
        self,
        claim: Claim[Job],
        *,
        move: Phase | None = None,
        message: str | None = None,
        level: str | None = None,
        data: dict[str, Any] | None = None,
        **changes: Any,
    ) -> bool:
        """Change a claimed job, guarded by lease, fence and (for a move) phase as they were loaded.

        A move writes a line in the job's log in the same transaction: ``message``, or "Moved from … to …";
        its level is ``info`` (``error`` for a move to failed) unless given. After an apply that changed the
        phase or the fence, go on with ``claim.updated(phase=…, fence=…)``.

        Returns:
            False if the lease, the fence or the phase is no longer as loaded: throw the work away.

        Raises:
            Conflict: the move is not in the table of moves (code ``illegal_move``).
        """
        job = claim.item
        guard: list[ColumnElement[bool]] = [jobs.c.fence == job.fence]
        if move is not None:
            check_move(job.phase, move)
            guard.append(jobs.c.phase == job.phase)
            changes["phase"] = move
        if not await self._leases.apply(claim, job.id, guard, changes):
            return False
        if "fine_tuned_model" in changes:
            self._touch()  # its checkpoints become callable
        if move is not None or message is not None:
            text = message or f"Moved from {job.phase} to {move}."
            moved = {"from": job.phase, "to": move} if move is not None else {}
            default = "error" if move is Phase.FAILED else "info"
            await JobEvents(self._session).add(
                job.id, level=level or default, message=text, data={**moved, **(data or {})} or None
            )
        return True

    async def list(
        self,
        project_id: str,
        *,
        after: str | None = None,
        limit: int,
        metadata: Mapping[str, str] | None = None,
    ) -> Page[Job]:
        """A page of the project's jobs, newest first; with ``metadata`` those that carry all these pairs."""
        mine = jobs.c.project_id == project_id
        scope = [mine, *(self._carries(key, value) for key, value in (metadata or {}).items())]
        return await page(
            self._session,
            Job,
            jobs,
            scope,
            keys=("created_at", "id"),
            after=after,
            limit=limit,
            cursor_scope=[mine],
        )

    def _carries(self, key: str, value: str) -> ColumnElement[bool]:
        # The stored text is our own dump of a flat object of strings: a pair stands behind "{" or ", ", and
        # quotes inside strings are escaped, so a plain text search finds exactly the pair.
        pair = dump_json({key: value})[1:-1]
        find = func.strpos if self._session.postgres else func.instr
        text = func.coalesce(func.cast(jobs.c.metadata, jobs.c.base.type), "")
        return (find(text, "{" + pair) > 0) | (find(text, ", " + pair) > 0)
