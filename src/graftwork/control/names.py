"""The names a job gives to what it makes: known from its creation, so that every retry finds the same."""

from __future__ import annotations

from graftwork.core import ids
from graftwork.core.nouns import Job, Organization

TAIL = 8


def tail(job: Job) -> str:
    """The short id at the end of an ``ft:`` name."""
    return job.id.removeprefix(ids.JOB)[:TAIL]


def adapter_name(job: Job) -> str:
    """Name of the adapter a job trains a version of: its suffix, or its own tail."""
    return ids.slug(job.suffix) if job.suffix else ids.slug(f"job-{tail(job)}")


def fine_tuned_model(job: Job, organization: Organization) -> str:
    """``ft:{base}:{org}:{suffix}:{id}``."""
    name = ids.slug(job.suffix) if job.suffix else ""
    return ids.fine_tuned_model(job.base, ids.slug(organization.name) or "org", name, tail(job))
