"""``/api/jobs``: following a job, and its trainer's own log."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Annotated, Any

import orjson
from fastapi import APIRouter, Header, Query
from fastapi.responses import StreamingResponse

from graftwork.api.auth import Caller, OnPlatform
from graftwork.api.platform import Platform
from graftwork.api.wire.jobs import CreateJob, Log, event_wire, job_wire, log_wire, progress_wire
from graftwork.control.services.logs import LogsService
from graftwork.control.views import JobView
from graftwork.core.errors import InvalidRequest

router = APIRouter(prefix="/api/jobs", tags=["jobs"])

PAUSE = 0.5
"""Seconds between looks at a job that is watched."""
QUIET = 15.0
"""Seconds after which a comment keeps a silent connection open."""
ENDED = frozenset({"succeeded", "failed", "cancelled"})


@router.post("/plan")
async def plan_job(body: CreateJob, caller: Caller, platform: OnPlatform) -> dict[str, Any]:
    """What a job of this body would do: does it fit, how long, what cost, on what, and why. None is made."""
    return await platform.plans.plan(caller.project_id, body.request())


@router.get("/{job_id}/watch", response_class=StreamingResponse)
async def watch_job(
    job_id: str,
    caller: Caller,
    platform: OnPlatform,
    last_event_id: Annotated[str | None, Header(alias="Last-Event-ID")] = None,
) -> StreamingResponse:
    """Server-sent events: ``event``, ``progress`` and ``done``.

    ``event`` is a line of the job's log, from the first or after ``Last-Event-ID``; ``progress`` comes when
    it has changed; ``done`` carries the whole job when it has ended.
    """
    after = _sequence(last_event_id)
    view = await platform.jobs.get(caller.project_id, job_id)
    events = _watch(platform, caller.project_id, view, after)
    return StreamingResponse(
        events,
        media_type="text/event-stream",
        headers={"cache-control": "no-cache", "x-accel-buffering": "no"},
    )


@router.get("/{job_id}/logs")
async def job_log(
    job_id: str,
    caller: Caller,
    platform: OnPlatform,
    attempt: Annotated[int | None, Query(ge=1)] = None,
    after: Annotated[int, Query(ge=0)] = 0,
) -> Log:
    """What the trainer wrote, in the newest attempt or the one named; ``after`` is the last ``cursor``."""
    logs = LogsService(platform.store)
    return log_wire(await logs.read(caller.project_id, job_id, attempt=attempt, after=after))


async def _watch(platform: Platform, project_id: str, view: JobView, after: int) -> AsyncIterator[bytes]:
    job_id = view.job.id
    shown: dict[str, Any] = {}
    silent = 0.0
    while True:
        ended = view.status in ENDED and view.job.finished_at is not None
        lines = b""
        while batch := await platform.jobs.events_since(project_id, job_id, seq=after):
            for event in batch:
                lines += _event("event", event_wire(event).model_dump(), event.seq)
            after = batch[-1].seq
        progress = progress_wire(view)
        if progress != shown:
            lines += _event("progress", progress)
            shown = progress
        if ended:
            yield lines + _event("done", job_wire(view).model_dump())
            return
        silent = 0.0 if lines else silent + PAUSE
        if silent >= QUIET:
            lines, silent = b": still here\n\n", 0.0
        if lines:
            yield lines
        await platform.clock.sleep(PAUSE)
        view = await platform.jobs.get(project_id, job_id)


def _event(name: str, data: dict[str, Any], sequence: int | None = None) -> bytes:
    head = b"" if sequence is None else b"id: %d\n" % sequence
    return head + b"event: " + name.encode() + b"\ndata: " + orjson.dumps(data) + b"\n\n"


def _sequence(text: str | None) -> int:
    if text is None or not text:
        return 0
    if not text.isascii() or not text.isdigit() or len(text) > 15:
        raise InvalidRequest(
            "Last-Event-ID is not a number.", fix="Send the id of the last event seen.", param="Last-Event-ID"
        )
    return int(text)
