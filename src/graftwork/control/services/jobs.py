"""Fine-tuning jobs: create, look at, and say what is wanted of them."""

from __future__ import annotations

from graftwork.control.bases import Bases
from graftwork.control.bell import Bell
from graftwork.control.names import adapter_name, fine_tuned_model
from graftwork.control.services.files import check_files
from graftwork.control.services.job_views import brief_view, full_view, organization_of
from graftwork.control.services.methods import continued
from graftwork.control.services.models import find_start
from graftwork.control.services.requests import JobRequest, body_hash, check_request
from graftwork.control.views import CheckpointView, JobView
from graftwork.core import ids
from graftwork.core.clock import Clock
from graftwork.core.errors import Conflict, InvalidRequest, NotFound
from graftwork.core.nouns import Job, JobEvent, Json
from graftwork.core.specs import TrainingOptions
from graftwork.core.states import ON_MACHINE, TERMINAL, Phase, Want
from graftwork.models.support import refuse_unserved
from graftwork.store import Page, Store, Tx

PAUSABLE = ON_MACHINE | {Phase.VALIDATING, Phase.PLANNING, Phase.QUEUED, Phase.PAUSED}
"""After training there is nothing left to pause."""


class JobsService:
    """Fine-tuning jobs of a project."""

    def __init__(self, store: Store, bases: Bases, clock: Clock, bell: Bell) -> None:
        self._store = store
        self._bases = bases
        self._clock = clock
        self._bell = bell

    async def create(
        self, project_id: str, request: JobRequest, *, idempotency_key: str | None = None
    ) -> JobView:
        """Write a job down; the reconcilers take it from there.

        The same ``idempotency_key`` with the same request gives the first job again.

        Raises:
            InvalidRequest: a field is out of range, a file has another purpose, the method is unsupported, or
                no engine could serve the adapter (``target_unserved``).
            NotFound: no such base model or file.
            Conflict: the key was used for another request, or the adapter exists on another base model.
        """
        checked = check_request(request)
        base, start, options = await self.began(project_id, request, checked.options)
        self._check_name(checked.adapter)
        now = self._clock.now()
        job = Job(
            id=ids.new_id(ids.JOB),
            project_id=project_id,
            phase=Phase.VALIDATING,
            want=Want.RUN,
            base=base,
            suffix=checked.suffix,
            seed=checked.seed,
            training_file=request.training_file,
            validation_file=request.validation_file,
            asked={
                "hyperparameters": checked.hyperparameters.model_dump(mode="json"),
                "options": options.model_dump(mode="json"),
                "beta": checked.beta,
                "start": start,
            },
            metadata=checked.metadata,
            integrations=None,
            created_at=now,
        )
        async with self._store.begin() as tx:
            made, created = await tx.jobs.create(
                job, idempotency_key=idempotency_key, body_hash=body_hash(request)
            )
            if created:  # a request that comes again gets its job, whatever became of the files since
                await check_files(tx, project_id, job.training_file, job.validation_file)
                await _check_adapter(tx, job)
                await tx.job_events.add(
                    made.id, level="info", message=f"Created fine-tuning job: {made.id}", at=now
                )
            view = await full_view(tx, made, now)
        self._bell.ring()
        return view

    async def get(self, project_id: str, job_id: str) -> JobView:
        """One job, in full.

        Raises:
            NotFound: no such job in this project.
        """
        async with self._store.read() as tx:
            return await full_view(tx, await _job(tx, project_id, job_id), self._clock.now())

    async def list(
        self,
        project_id: str,
        *,
        after: str | None = None,
        limit: int = 20,
        metadata: dict[str, str] | None = None,
    ) -> Page[JobView]:
        """The project's jobs, newest first, in brief; ``metadata`` keeps those that carry all its pairs."""
        async with self._store.read() as tx:
            page = await tx.jobs.list(project_id, after=after, limit=limit, metadata=metadata)
            organization = await organization_of(tx, project_id)
        now = self._clock.now()
        return Page([brief_view(job, organization, now) for job in page.items], page.has_more)

    async def cancel(self, project_id: str, job_id: str) -> JobView:
        """Ask that a job end now; machines are stopped first. Cancelling twice is one cancel.

        Raises:
            NotFound: no such job in this project.
            Conflict: the job has already ended.
        """
        return await self._want(project_id, job_id, Want.CANCEL, frozenset(set(Phase) - TERMINAL))

    async def pause(self, project_id: str, job_id: str) -> JobView:
        """Ask that training stop at a checkpoint and its machine be given back.

        Raises:
            NotFound: no such job in this project.
            Conflict: training is over, or a cancel is under way.
        """
        return await self._want(project_id, job_id, Want.PAUSE, PAUSABLE)

    async def resume(self, project_id: str, job_id: str) -> JobView:
        """Let a paused job go on from its last checkpoint.

        Raises:
            NotFound: no such job in this project.
            Conflict: the job is neither paused nor pausing.
        """
        async with self._store.begin() as tx:
            job = await _job(tx, project_id, job_id)
            if job.want is not Want.PAUSE:
                raise Conflict(
                    f"Job {job_id!r} is not paused; it is {job.phase}.",
                    fix="Only a paused job can be resumed.",
                    code="job_not_paused",
                )
            await tx.jobs.set_want(project_id, job_id, Want.RUN)
            view = await full_view(tx, await _job(tx, project_id, job_id), self._clock.now())
        self._bell.ring()
        return view

    async def events(
        self, project_id: str, job_id: str, *, after: str | None = None, limit: int = 20
    ) -> Page[JobEvent]:
        """The job's log, newest first.

        Raises:
            NotFound: no such job in this project.
        """
        async with self._store.read() as tx:
            await _job(tx, project_id, job_id)
            return await tx.job_events.list(job_id, after=after, limit=limit)

    async def events_since(
        self, project_id: str, job_id: str, *, seq: int = 0, limit: int = 200
    ) -> list[JobEvent]:
        """The job's log after ``seq``, oldest first: for following it.

        Raises:
            NotFound: no such job in this project.
        """
        async with self._store.read() as tx:
            await _job(tx, project_id, job_id)
            return await tx.job_events.since(job_id, seq, limit)

    async def checkpoints(
        self, project_id: str, job_id: str, *, after: str | None = None, limit: int = 10
    ) -> Page[CheckpointView]:
        """The job's checkpoints, newest first.

        Raises:
            NotFound: no such job in this project.
        """
        async with self._store.read() as tx:
            job = await _job(tx, project_id, job_id)
            page = await tx.checkpoints.list(job_id, after=after, limit=limit)
            model = fine_tuned_model(job, await organization_of(tx, project_id))
        views = [
            CheckpointView(
                checkpoint=item,
                model=ids.checkpoint_model(model, item.step),
                callable=item.weights is not None,
            )
            for item in page.items
        ]
        return Page(views, page.has_more)

    async def began(
        self, project_id: str, request: JobRequest, options: TrainingOptions
    ) -> tuple[str, Json | None, TrainingOptions]:
        """The base model, and where ``model`` is one of the project's own, what the run begins with."""
        try:
            entry = await self._bases.get(request.model)
            refuse_unserved(entry.shape, options.lora, entry.name)
            return request.model, None, options
        except NotFound as unknown:
            async with self._store.read() as tx:
                found = await find_start(tx, project_id, request.model)
            if found is None:
                raise unknown
        given = (request.options or {}).get("lora")
        lora = continued(found.lora, given, request.model)
        start = {"asked": request.model, "model": found.model, "weights": found.weights}
        return found.base, start, options.model_copy(update={"lora": lora})

    def _check_name(self, adapter: str | None) -> None:
        if adapter in {entry.name for entry in self._bases.list()}:
            raise InvalidRequest(
                f"{adapter!r} is a base model: an adapter of that name could never be called by it.",
                fix="Use another suffix.",
                code="suffix_is_base_model",
                param="suffix",
            )

    async def _want(self, project_id: str, job_id: str, want: Want, allowed: frozenset[Phase]) -> JobView:
        async with self._store.begin() as tx:
            job = await _job(tx, project_id, job_id)
            if job.want is not want:
                if job.phase not in allowed or job.want is Want.CANCEL:
                    raise Conflict(
                        f"Job {job_id!r} is {job.phase}, so it cannot be made to {want}.",
                        fix="Look at the job's status first.",
                        code=f"cannot_{want}",
                    )
                await tx.jobs.set_want(project_id, job_id, want)
            elif job.phase in TERMINAL and want is not Want.CANCEL:
                raise Conflict(f"Job {job_id!r} has ended.", fix="Create a new job.", code=f"cannot_{want}")
            view = await full_view(tx, await _job(tx, project_id, job_id), self._clock.now())
        self._bell.ring()
        return view


async def _job(tx: Tx, project_id: str, job_id: str) -> Job:
    job = await tx.jobs.get(project_id, job_id)
    if job is None:
        raise NotFound(
            f"No such job: {job_id!r}.", fix="List the project's jobs to see their ids.", code="job_not_found"
        )
    return job


async def _check_adapter(tx: Tx, job: Job) -> None:
    adapter = await tx.adapters.get_by_name(job.project_id, adapter_name(job))
    if adapter is not None and adapter.base != job.base:
        raise Conflict(
            f"Adapter {adapter.name!r} is trained on {adapter.base!r}, not on {job.base!r}.",
            fix="Use another suffix, or the adapter's own base model.",
            code="adapter_on_other_base",
            param="suffix",
        )


__all__ = ["JobRequest", "JobsService"]
