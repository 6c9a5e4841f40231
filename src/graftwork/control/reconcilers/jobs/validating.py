"""Validating: both files are read as the trainer will read them, and every problem is told at once."""

from __future__ import annotations

import asyncio

from graftwork.control.plan import JobPlan, Part, options_of
from graftwork.control.reconcilers.jobs.context import Context
from graftwork.control.reconcilers.jobs.endings import failed
from graftwork.control.reconcilers.jobs.step import Note, Step
from graftwork.core.nouns import Job, StoredFile
from graftwork.core.states import Phase
from graftwork.data import Report, canonical, check_pair, validate

TOLD = 1000
"""Findings told in full; a file with more is of another kind altogether."""
_WARNINGS = 20
_TRAIN, _VALID = "training_file", "validation_file"


async def validating(ctx: Context, job: Job) -> Step:
    """Validate the training file, and the validation file if there is one; any error ends the job."""
    files: dict[str, StoredFile] = {}
    for param, file_id in ((_TRAIN, job.training_file), (_VALID, job.validation_file)):
        if file_id is None:
            continue
        async with ctx.store.read() as tx:
            stored = await tx.files.get(job.project_id, file_id)
        if stored is None:
            return failed(
                ctx, job, "file_not_found", f"File {file_id} is deleted or has expired.", param=param
            )
        files[param] = stored
    reports = {param: await _report(ctx, job, param, stored) for param, stored in files.items()}
    if _VALID in reports:
        reports[_VALID] = await asyncio.to_thread(check_pair, reports[_TRAIN], reports[_VALID])
    for param, report in reports.items():
        if not report.ok:
            return _refused(ctx, job, param, report)
    parts = {param: await _part(ctx, report) for param, report in reports.items()}
    plan = JobPlan(
        reports={param: report.to_json() for param, report in reports.items()},
        train=parts[_TRAIN],
        valid=parts.get(_VALID),
    )
    notes = [Note(message=f"Validating {_words(param)}: {stored.id}") for param, stored in files.items()]
    notes += [note for param, report in reports.items() for note in _warnings(param, report)]
    # The line of the move itself comes last, and is planning's to say.
    return Step(move=Phase.PLANNING, changes={"plan": plan.model_dump(mode="json")}, notes=tuple(notes))


async def _report(ctx: Context, job: Job, param: str, stored: StoredFile) -> Report:
    data = await ctx.artifacts.get(stored.sha256)
    entry = await ctx.bases.pinned(job.base)
    renderer = await ctx.bases.renderer(job.base)
    return await asyncio.to_thread(
        validate,
        data,
        filename=stored.filename,
        renderer=renderer,
        max_length=options_of(job).max_length or entry.context,
        purpose="train" if param == _TRAIN else "valid",
        method=options_of(job).method or "sft",
    )


async def _part(ctx: Context, report: Report) -> Part:
    rows = report.rows_canonical()
    data = await asyncio.to_thread(canonical, rows)
    return Part(sha256=await ctx.artifacts.put(data), rows=len(rows))


def _refused(ctx: Context, job: Job, param: str, report: Report) -> Step:
    """The job fails with every finding, a line for each."""
    errors = report.errors
    told = [str(finding) for finding in report.findings[:TOLD]]
    more = len(report.findings) - len(told)
    lines = [*told, *([f"… and {more} more."] if more else [])]
    count = f"{len(errors)} {'problem' if len(errors) == 1 else 'problems'}"
    return failed(
        ctx,
        job,
        f"invalid_{param}",
        f"The {_words(param)} has {count} that must be mended:\n" + "\n".join(lines),
        param=param,
        findings=[finding.to_json() for finding in report.findings[:TOLD]],
    )


def _warnings(param: str, report: Report) -> list[Note]:
    warnings = report.warnings
    notes = [
        Note(message=f"{_words(param).capitalize()}, {warning}", level="warn", data={"code": warning.code})
        for warning in warnings[:_WARNINGS]
    ]
    if len(warnings) > _WARNINGS:
        more = f"{_words(param).capitalize()}: {len(warnings) - _WARNINGS} more warnings."
        notes.append(Note(message=more, level="warn", data={"code": "more_warnings"}))
    return notes


def _words(param: str) -> str:
    return param.replace("_", " ")
