"""Registering and deploying: the immutable version with its receipt, then the alias, then the job is done."""

from __future__ import annotations

import csv
import io

from graftwork.billing import training_key
from graftwork.control.names import adapter_name, fine_tuned_model
from graftwork.control.plan import JobPlan, options_of, plan_of
from graftwork.control.reconcilers.jobs.context import Context
from graftwork.control.reconcilers.jobs.endings import failed
from graftwork.control.reconcilers.jobs.evaluating import engine_trouble
from graftwork.control.reconcilers.jobs.step import Instead, Note, Step, Write
from graftwork.control.services.files import RESULTS
from graftwork.core import ids
from graftwork.core.errors import Conflict, PlatformError
from graftwork.core.nouns import Evaluation, Job, Organization, StoredFile, Version
from graftwork.core.specs import Hyperparameters
from graftwork.core.states import Phase, PlacementState, Verdict
from graftwork.registry import (
    DEFAULT_ALIAS,
    DataReceipt,
    EvaluationReceipt,
    Receipt,
    digest,
    promote,
    register,
)
from graftwork.store import Tx

_EVENTS = 500
_COLUMNS = {
    "step": "step",
    "train_loss": "train_loss",
    "train_accuracy": "train_mean_token_accuracy",
    "valid_loss": "valid_loss",
    "valid_mean_token_accuracy": "valid_mean_token_accuracy",
}
"""Columns of the result file, as OpenAI names them, and where a metrics event has them."""
_KEPT = ("format", "verdict", "gate", "scores", "losses", "statistics")
"""The parts of an evaluation's report that a receipt carries; the single rows stay in the evaluation."""


async def registering(ctx: Context, job: Job) -> Step:
    """Add the version to its adapter's line; the same job registers once."""
    plan = plan_of(job)
    async with ctx.store.read() as tx:
        evaluation = await tx.evaluations.for_job(job.id)
        organization = await _organization(tx, job)
        paid = await tx.ledger.get(training_key(job.id))
        weights = None if plan.trained is None else await tx.weights.get(plan.trained.weights)
    if weights is None:
        raise PlatformError(f"Job {job.id} has no weights to register.", code="weights_missing")
    receipt = await _receipt(ctx, job, plan, evaluation, paid.amount if paid is not None else 0)
    model = fine_tuned_model(job, organization)

    async def write(tx: Tx) -> None:
        version = await register(
            tx,
            project_id=job.project_id,
            adapter=adapter_name(job),
            model=model,
            weights=weights.digest,
            files=weights.files,
            receipt=receipt,
        )
        endpoint = await tx.endpoints.by_base(job.base)
        if endpoint is not None:
            await tx.placements.ensure(endpoint.id, job.project_id, weights.digest, ctx.clock.now())
        await tx.job_events.add(
            job.id,
            level="info",
            message=f"Registered version {adapter_name(job)}@{version.number}.",
            data={"version": version.id},
        )

    return Step(move=Phase.DEPLOYING, writes=(write,))


async def deploying(ctx: Context, job: Job) -> Step:
    """Wait until the version is served; then move the alias, if the gate passed, and end the job."""
    async with ctx.store.read() as tx:
        version = await tx.versions.by_job(job.id)
        organization = await _organization(tx, job)
        if version is None:
            raise PlatformError(f"Job {job.id} has no version to deploy.", code="version_missing")
        endpoint = await tx.endpoints.by_base(job.base)
        placement = await tx.placements.by_weights(version.weights)
    if placement is None or endpoint is None:
        return await _place_again(ctx, job, version)
    if placement.state is PlacementState.FAILED:
        reason = placement.reason or "unknown"
        return failed(ctx, job, "adapter_not_servable", f"The adapter cannot be served: {reason}")
    if placement.state is not PlacementState.READY or placement.generation != endpoint.generation:
        return Step(notes=engine_trouble(endpoint), delay=ctx.limits.watch)
    results = await _results(ctx, job)
    model = fine_tuned_model(job, organization)
    if version.verdict is not Verdict.PASS:
        why = f"the gate's verdict is {version.verdict}"
        return _done(ctx, job, version, model, results, _not_moved(version, why))
    if not options_of(job).promote:
        return _done(ctx, job, version, model, results, _not_moved(version, "promote is off", "info"))
    moved = Note(message=f"{adapter_name(job)}@{DEFAULT_ALIAS} now points at version {version.number}.")
    otherwise = _done(ctx, job, version, model, results, _not_moved(version, "it was moved meanwhile"))
    return _done(ctx, job, version, model, results, moved, _promotion(ctx, job, version, otherwise))


def _promotion(ctx: Context, job: Job, version: Version, otherwise: Step) -> Write:
    """Move the alias, if it still stands where it stood when the gate compared with it."""
    live = plan_of(job).live

    async def write(tx: Tx) -> None:
        adapter = await tx.adapters.get(job.project_id, version.adapter_id)
        if adapter is None:
            raise Instead(otherwise)
        try:
            await promote(
                tx,
                job.project_id,
                adapter,
                version,
                expected_generation=0 if live is None else live.generation,
                actor="gate",
                reason=f"job {job.id} passed the gate",
                at=ctx.clock.now(),
            )
        except Conflict:
            raise Instead(otherwise) from None

    return write


def _not_moved(version: Version, why: str, level: str = "warn") -> Note:
    message = (
        f"{DEFAULT_ALIAS} was not moved to version {version.number}: {why}. It is callable by its own name."
    )
    return Note(message=message, level="warn" if level == "warn" else "info")


def _done(
    ctx: Context,
    job: Job,
    version: Version,
    model: str,
    results: StoredFile,
    alias: Note,
    *writes: Write,
) -> Step:
    async def keep(tx: Tx) -> None:
        await tx.files.create(results)

    return Step(
        move=Phase.DONE,
        changes={
            "fine_tuned_model": model,
            "version_id": version.id,
            "result_files": (results.id,),
            "finished_at": ctx.clock.now(),
            "estimated_finish": None,
        },
        notes=(
            alias,
            Note(message=f"New fine-tuned model created: {model}"),
            Note(message="The job has successfully completed"),
        ),
        writes=(keep, *writes),
    )


async def _place_again(ctx: Context, job: Job, version: Version) -> Step:
    entry = await ctx.bases.get(job.base)

    async def write(tx: Tx) -> None:
        endpoint = await tx.endpoints.ensure(job.base, ctx.bases.engine(entry), ctx.clock.now())
        await tx.placements.ensure(endpoint.id, job.project_id, version.weights, ctx.clock.now())

    return Step(writes=(write,), delay=ctx.limits.watch)


async def _receipt(
    ctx: Context, job: Job, plan: JobPlan, evaluation: Evaluation | None, cost: int
) -> Receipt:
    if plan.spec is None or plan.trained is None:
        raise PlatformError(f"Job {job.id} has no plan to write a receipt from.", code="plan_missing")
    spec = plan.spec
    renderer = await ctx.bases.renderer(job.base)
    valid = spec.valid and DataReceipt(
        sha256=spec.valid.sha256, rows=spec.valid.rows, file=None if plan.held_out else job.validation_file
    )
    return Receipt(
        job_id=job.id,
        base=spec.base,
        tokenizer_hash=renderer.tokenizer_hash,
        template_hash=renderer.template_hash,
        train=DataReceipt(sha256=spec.train.sha256, rows=spec.train.rows, file=job.training_file),
        valid=valid or None,
        code_version=spec.code_version,
        method=spec.method,
        preference=spec.preference,
        trainer=spec.trainer,
        quantization=spec.quantization,
        start=spec.start,
        lora=spec.lora,
        asked=Hyperparameters.model_validate(job.asked["hyperparameters"]),
        schedule=spec.schedule,
        seed=spec.seed,
        trained_tokens=plan.trained.tokens,
        step=plan.trained.step,
        evaluation=None if evaluation is None else _evaluation_receipt(evaluation),
        verdict=Verdict.INCONCLUSIVE if evaluation is None else evaluation.verdict,
        cost=cost,
        created_at=ctx.clock.now(),
    )


def _evaluation_receipt(evaluation: Evaluation) -> EvaluationReceipt:
    return EvaluationReceipt(
        id=evaluation.id,
        verdict=evaluation.verdict,
        digest=digest(evaluation.report),
        report={name: evaluation.report[name] for name in _KEPT if name in evaluation.report},
    )


async def _results(ctx: Context, job: Job) -> StoredFile:
    """The metrics of every step as CSV, stored; the file's row is written with the job's last move."""
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(_COLUMNS)
    seq = 0
    async with ctx.store.read() as tx:
        while events := await tx.job_events.since(job.id, seq, _EVENTS):
            for event in events:
                if event.type == "metrics" and event.data:
                    table.writerow([event.data.get(key, "") for key in _COLUMNS.values()])
            seq = events[-1].seq
    data = text.getvalue().encode()
    return StoredFile(
        id=ids.new_id(ids.FILE),
        project_id=job.project_id,
        filename="step_metrics.csv",
        purpose=RESULTS,
        bytes=len(data),
        sha256=await ctx.artifacts.put(data),
        created_at=ctx.clock.now(),
    )


async def _organization(tx: Tx, job: Job) -> Organization:
    project = await tx.projects.get(job.project_id)
    organization = None if project is None else await tx.organizations.get(project.organization_id)
    if organization is None:
        raise PlatformError(f"Job {job.id} belongs to nobody.", code="project_missing")
    return organization
