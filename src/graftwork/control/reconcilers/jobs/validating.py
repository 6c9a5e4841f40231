"""Validating: both files are read as the trainer will read them, and every problem is told at once."""

from __future__ import annotations

import asyncio

from graftwork.control.plan import JobPlan, Part, options_of
from graftwork.control.reconcilers.jobs.context import Context
from graftwork.control.reconcilers.jobs.endings import failed
from graftwork.control.reconcilers.jobs.step import Note, Step
from graftwork.core.nouns import Job, StoredFile
from graftwork.core.states import Phase
from graftwork.data import Finding, Report, canonical, check_pair, validate

_CODES = {"training_file": "invalid_training_file", "validation_file": "invalid_validation_file"}
_SHOWN = 20
"""Warnings told in the job's log, each on a line of its own."""


async def validating(ctx: Context, job: Job) -> Step:
    """Validate the training file, and the validation file if there is one; any error ends the job."""
    wanted = {"training_file": job.training_file, "validation_file": job.validation_file}
    files: dict[str, StoredFile] = {}
    for param, file_id in wanted.items():
        if file_id is None:
            continue
        async with ctx.store.read() as tx:
            stored = await tx.files.get(job.project_id, file_id)
        if stored is None:
            return failed(ctx, job, "file_not_found", f"File {file_id} has expired.", param=param)
        files[param] = stored
    reports = {param: await _report(ctx, job, param, stored) for param, stored in files.items()}
    if "validation_file" in reports:
        await asyncio.to_thread(check_pair, reports["training_file"], reports["validation_file"])
    for param, report in reports.items():
        if not report.ok:
            return _refused(ctx, job, param, report)
    parts = {param: await _stored(ctx, report) for param, report in reports.items()}
    plan = JobPlan(
        reports={param: report.to_json() for param, report in reports.items()},
        train=parts["training_file"],
        valid=parts.get("validation_file"),
    )
    notes = [
        *(Note(message=f"Validating {_words(param)}: {stored.id}") for param, stored in files.items()),
        *(note for param, report in reports.items() for note in _warnings(param, report)),
    ]
    return Step(move=Phase.PLANNING, changes={"plan": plan.model_dump(mode="json")}, notes=tuple(notes))
