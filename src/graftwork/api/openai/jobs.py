"""``/v1/fine_tuning/jobs``."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Header, Query, Request

from graftwork.api.auth import Caller, OnPlatform
from graftwork.api.platform import Platform
from graftwork.api.wire.base import IdList, List
from graftwork.api.wire.jobs import (
    Checkpoint,
    CreateJob,
    Event,
    FineTuningJob,
    checkpoint_wire,
    event_wire,
    job_wire,
)
from graftwork.control.views import JobView
from graftwork.core.errors import InvalidRequest
from graftwork.store import Page

router = APIRouter(prefix="/v1/fine_tuning/jobs", tags=["fine-tuning"])

Limit = Annotated[int, Query(ge=1, le=1000)]
IdempotencyKey = Annotated[str | None, Header(alias="Idempotency-Key", min_length=1, max_length=255)]


@router.post("")
async def create_job(
    body: CreateJob, caller: Caller, platform: OnPlatform, idempotency_key: IdempotencyKey = None
) -> FineTuningJob:
    """Create a job. The same ``Idempotency-Key`` and body give the first job again; another body is a 409."""
    view = await platform.jobs.create(caller.project_id, body.request(), idempotency_key=idempotency_key)
    return job_wire(view)


@router.get("")
async def list_jobs(
    request: Request,
    caller: Caller,
    platform: OnPlatform,
    after: str | None = None,
    limit: Limit = 20,
) -> List[FineTuningJob]:
    """The project's jobs, newest first; ``metadata[k]=v`` filters, ``metadata=null`` keeps those without."""
    wanted = _metadata(request)
    if wanted is None:
        page = await _without_metadata(platform, caller.project_id, after, limit)
    else:
        page = await platform.jobs.list(caller.project_id, after=after, limit=limit, metadata=wanted or None)
    return List(data=[job_wire(view) for view in page.items], has_more=page.has_more)


@router.get("/{job_id}")
async def retrieve_job(job_id: str, caller: Caller, platform: OnPlatform) -> FineTuningJob:
    """One job."""
    return job_wire(await platform.jobs.get(caller.project_id, job_id))


@router.post("/{job_id}/cancel")
async def cancel_job(job_id: str, caller: Caller, platform: OnPlatform) -> FineTuningJob:
    """End a job now."""
    return job_wire(await platform.jobs.cancel(caller.project_id, job_id))


@router.post("/{job_id}/pause")
async def pause_job(job_id: str, caller: Caller, platform: OnPlatform) -> FineTuningJob:
    """Stop training at a checkpoint and give the machine back."""
    return job_wire(await platform.jobs.pause(caller.project_id, job_id))


@router.post("/{job_id}/resume")
async def resume_job(job_id: str, caller: Caller, platform: OnPlatform) -> FineTuningJob:
    """Go on from the last checkpoint."""
    return job_wire(await platform.jobs.resume(caller.project_id, job_id))


@router.get("/{job_id}/events")
async def list_events(
    job_id: str, caller: Caller, platform: OnPlatform, after: str | None = None, limit: Limit = 20
) -> List[Event]:
    """The job's log, newest first."""
    page = await platform.jobs.events(caller.project_id, job_id, after=after, limit=limit)
    return List(data=[event_wire(event) for event in page.items], has_more=page.has_more)


@router.get("/{job_id}/checkpoints")
async def list_checkpoints(
    job_id: str, caller: Caller, platform: OnPlatform, after: str | None = None, limit: Limit = 10
) -> IdList[Checkpoint]:
    """The job's checkpoints, newest first."""
    page = await platform.jobs.checkpoints(caller.project_id, job_id, after=after, limit=limit)
    data = [checkpoint_wire(view) for view in page.items]
    return IdList(
        data=data,
        first_id=data[0].id if data else None,
        last_id=data[-1].id if data else None,
        has_more=page.has_more,
    )


def _metadata(request: Request) -> dict[str, str] | None:
    """The filter: pairs to carry, or None for jobs without metadata (``metadata=null``)."""
    pairs: dict[str, str] = {}
    null = False
    for name, value in request.query_params.multi_items():
        if name.startswith("metadata[") and name.endswith("]"):
            pairs[name[len("metadata[") : -1]] = value
        elif name == "metadata":
            if value != "null":
                raise InvalidRequest(
                    "metadata is neither 'null' nor of the form metadata[key]=value.",
                    fix="Filter by metadata[key]=value.",
                    param="metadata",
                )
            null = True
    if null and pairs:
        raise InvalidRequest(
            "metadata=null and metadata[key] exclude each other.", fix="Send one.", param="metadata"
        )
    return None if null else pairs


async def _without_metadata(
    platform: Platform, project_id: str, after: str | None, limit: int
) -> Page[JobView]:
    found: list[JobView] = []
    while True:
        page = await platform.jobs.list(project_id, after=after, limit=limit)
        found += [view for view in page.items if not view.job.metadata]
        if len(found) > limit or not page.has_more:
            return Page(found[:limit], len(found) > limit)
        after = page.items[-1].job.id
