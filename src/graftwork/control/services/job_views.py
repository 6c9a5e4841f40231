"""From a job's rows to what its owner sees."""

from __future__ import annotations

from typing import Any

from graftwork.control.names import adapter_name
from graftwork.control.plan import options_of
from graftwork.control.views import JobView, Progress
from graftwork.core.errors import NotFound
from graftwork.core.nouns import Job, JobEvent, Json, Organization
from graftwork.core.states import TERMINAL, EntryState, Phase, Want, wire_status
from graftwork.store import Tx

POINTS = 200
"""Events looked at for progress and for the sparkline."""


def brief_view(job: Job, organization: Organization, now: float) -> JobView:
    """A job as it stands in a listing: from its own row only."""
    return JobView(
        job=job,
        organization=organization.id,
        status=_status(job),
        hyperparameters=_hyperparameters(job),
        adapter=adapter_name(job),
        progress=_progress(job, [], now),
        evaluation=None,
        version=None,
        machine=None,
        cost=0,
        reserved=0,
    )


async def full_view(tx: Tx, job: Job, now: float) -> JobView:
    """A job with its progress, gate report, version, machine and cost."""
    organization = await organization_of(tx, job.project_id)
    events = await tx.job_events.list(job.id, after=None, limit=POINTS)
    run = await tx.runs.latest(job.id)
    entries = await tx.ledger.for_job(job.project_id, job.id)
    return JobView(
        job=job,
        organization=organization.id,
        status=_status(job),
        hyperparameters=_hyperparameters(job),
        adapter=adapter_name(job),
        progress=_progress(job, events.items, now),
        evaluation=await tx.evaluations.for_job(job.id),
        version=None if job.version_id is None else await tx.versions.get(job.project_id, job.version_id),
        machine=None if run is None else await tx.machines.get(run.machine),
        cost=sum(entry.amount for entry in entries if entry.state is EntryState.SETTLED),
        reserved=sum(entry.amount for entry in entries if entry.state is EntryState.OPEN),
    )


async def organization_of(tx: Tx, project_id: str) -> Organization:
    """The organization a project belongs to.

    Raises:
        NotFound: no such project.
    """
    project = await tx.projects.get(project_id)
    organization = None if project is None else await tx.organizations.get(project.organization_id)
    if organization is None:
        raise NotFound(f"No such project: {project_id!r}.", code="project_not_found")
    return organization


def _status(job: Job) -> str:
    # A cancel that was accepted is never taken back, so its owner is told at once.
    if job.want is Want.CANCEL and job.phase not in TERMINAL:
        return wire_status(Phase.CANCELLED)
    return wire_status(job.phase)


def _hyperparameters(job: Job) -> Json:
    asked = dict(job.asked["hyperparameters"])
    schedule = _schedule(job)
    found = {name: schedule.get(name, value) for name, value in asked.items()}
    options = options_of(job)
    if options.method == "dpo":
        found["beta"] = options.preference.beta if schedule else job.asked.get("beta") or "auto"
    return found


def _schedule(job: Job) -> Json:
    spec = (job.plan or {}).get("spec")
    return spec["schedule"] if spec else {}


def _progress(job: Job, newest_first: list[JobEvent], now: float) -> Progress:
    metrics = [event.data for event in reversed(newest_first) if event.type == "metrics" and event.data]
    losses = [row for row in metrics if row.get("train_loss") is not None]
    training = job.phase in {Phase.PREPARING, Phase.TRAINING} and job.estimated_finish is not None
    return Progress(
        step=job.progress,
        total_steps=_schedule(job).get("total_steps"),
        loss=_last(losses, "train_loss"),
        losses=tuple(row["train_loss"] for row in losses),
        valid_loss=_last(metrics, "valid_loss"),
        tokens_per_s=_last(metrics, "tokens_per_s"),
        eta_seconds=max(0.0, (job.estimated_finish or 0) - now) if training else None,
        trained_tokens=job.trained_tokens if job.trained_tokens is not None else _last(metrics, "tokens"),
    )


def _last(rows: list[Json], name: str) -> Any:
    return next((row[name] for row in reversed(rows) if row.get(name) is not None), None)
