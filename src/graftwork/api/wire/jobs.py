"""Fine-tuning jobs, their events and checkpoints on the wire: OpenAI's shapes, ours under ``graftwork``."""

from __future__ import annotations

from typing import Any, Literal

from graftwork.api.wire.base import TolerantBody, Wire, seconds
from graftwork.control.plan import options_of
from graftwork.control.services.logs import LogText
from graftwork.control.services.methods import trainer_of
from graftwork.control.services.requests import JobRequest
from graftwork.control.views import CheckpointView, JobView
from graftwork.core.money import dollars
from graftwork.core.nouns import Evaluation, JobEvent
from graftwork.core.specs import TrainingOptions

Json = dict[str, Any]


class MethodPart(TolerantBody):
    """``{"hyperparameters": {…}}`` of one method."""

    hyperparameters: Json | None = None


class MethodBody(TolerantBody):
    """How to train."""

    type: str
    supervised: MethodPart | None = None
    dpo: MethodPart | None = None
    reinforcement: MethodPart | None = None


class CreateJob(TolerantBody):
    """Body of ``POST /v1/fine_tuning/jobs``."""

    model: str
    training_file: str
    validation_file: str | None = None
    suffix: str | None = None
    seed: int | None = None
    metadata: dict[str, str] | None = None
    integrations: list[Json] | None = None
    method: MethodBody | None = None
    hyperparameters: Json | None = None
    """Deprecated alias of ``method.supervised.hyperparameters``."""
    graftwork: TrainingOptions | None = None
    """Our own options (``extra_body={"graftwork": {…}}``); an unknown key in here is an error."""

    def request(self) -> JobRequest:
        """What the jobs service takes."""
        method = self.method
        part = None
        if method is not None:
            part = method.dpo if method.type == "dpo" else method.supervised
        asked = part.hyperparameters if part is not None else None
        options = None
        if self.graftwork is not None:
            options = self.graftwork.model_dump(mode="json", exclude_unset=True)
        return JobRequest(
            model=self.model,
            training_file=self.training_file,
            validation_file=self.validation_file,
            suffix=self.suffix,
            seed=self.seed,
            method=None if method is None else method.type,
            hyperparameters=self.hyperparameters if asked is None else asked,
            options=options,
            metadata=self.metadata,
            integrations=self.integrations,
        )


class JobError(Wire):
    """Why a job failed. ``message`` holds every finding; ``graftwork.findings`` holds them as data."""

    code: str
    message: str
    param: str | None
    graftwork: Json | None = None


class Hyperparameters(Wire):
    """As planned, or as asked before the plan."""

    n_epochs: int | Literal["auto"]
    batch_size: int | Literal["auto"]
    learning_rate_multiplier: float | Literal["auto"]


class DpoHyperparameters(Hyperparameters):
    """As planned, or as asked before the plan."""

    beta: float | Literal["auto"]


class Supervised(Wire):
    """The supervised method's settings."""

    hyperparameters: Hyperparameters


class Dpo(Wire):
    """DPO's settings."""

    hyperparameters: DpoHyperparameters


class SupervisedMethod(Wire):
    """How the job is trained: supervised, or by a method of ours that ``graftwork`` names."""

    type: Literal["supervised"] = "supervised"
    supervised: Supervised


class DpoMethod(Wire):
    """How the job is trained: by direct preference optimization."""

    type: Literal["dpo"] = "dpo"
    dpo: Dpo


class JobExtras(Wire):
    """What OpenAI's job has no field for."""

    phase: str
    adapter: str
    method: str
    trainer: str
    started_from: str | None
    """The version or checkpoint that the run began with."""
    version: int | None
    gate: Json | None
    progress: Json
    plan: Json | None
    cost: Json


class FineTuningJob(Wire):
    """OpenAI's ``fine_tuning.job``, with ``graftwork`` beside its fields."""

    id: str
    object: Literal["fine_tuning.job"] = "fine_tuning.job"
    created_at: int
    error: JobError | None
    estimated_finish: int | None
    fine_tuned_model: str | None
    finished_at: int | None
    hyperparameters: Hyperparameters | None
    """Of a supervised job, as at OpenAI; else null, and under ``method``."""
    integrations: list[Json] | None
    metadata: dict[str, str] | None
    method: SupervisedMethod | DpoMethod
    model: str
    organization_id: str
    result_files: list[str]
    seed: int
    status: str
    trained_tokens: int | None
    training_file: str
    validation_file: str | None
    user_provided_suffix: str | None
    graftwork: JobExtras


class Event(Wire):
    """OpenAI's ``fine_tuning.job.event``."""

    id: str
    object: Literal["fine_tuning.job.event"] = "fine_tuning.job.event"
    created_at: int
    level: str
    message: str
    type: str
    data: Json | None


class CheckpointMetrics(Wire):
    """Measured at a checkpoint; null where it was not."""

    step: int
    train_loss: float | None
    train_mean_token_accuracy: float | None
    valid_loss: float | None
    valid_mean_token_accuracy: float | None
    full_valid_loss: float | None
    full_valid_mean_token_accuracy: float | None


class Checkpoint(Wire):
    """OpenAI's ``fine_tuning.job.checkpoint``."""

    id: str
    object: Literal["fine_tuning.job.checkpoint"] = "fine_tuning.job.checkpoint"
    created_at: int
    fine_tuned_model_checkpoint: str
    fine_tuning_job_id: str
    step_number: int
    metrics: CheckpointMetrics


class Log(Wire):
    """A piece of the trainer's log; ``cursor`` asks for what follows."""

    attempt: int
    text: str
    cursor: int


def job_wire(view: JobView) -> FineTuningJob:
    """A job as OpenAI writes it."""
    job = view.job
    method = _method(view)
    return FineTuningJob(
        id=job.id,
        created_at=int(job.created_at),
        error=None if job.error is None else _error(job.error),
        estimated_finish=seconds(job.estimated_finish) if view.status == "running" else None,
        fine_tuned_model=job.fine_tuned_model if view.status == "succeeded" else None,
        finished_at=seconds(job.finished_at),
        hyperparameters=method.supervised.hyperparameters if isinstance(method, SupervisedMethod) else None,
        integrations=job.integrations,
        metadata=job.metadata,
        method=method,
        model=(job.asked.get("start") or {}).get("asked", job.base),
        organization_id=view.organization,
        result_files=list(job.result_files),
        seed=job.seed,
        status=view.status,
        trained_tokens=job.trained_tokens,
        training_file=job.training_file,
        validation_file=job.validation_file,
        user_provided_suffix=job.suffix,
        graftwork=_extras(view),
    )


def _method(view: JobView) -> SupervisedMethod | DpoMethod:
    if options_of(view.job).method == "dpo":
        return DpoMethod(dpo=Dpo(hyperparameters=DpoHyperparameters.model_validate(view.hyperparameters)))
    asked = Hyperparameters.model_validate(view.hyperparameters)
    return SupervisedMethod(supervised=Supervised(hyperparameters=asked))


def event_wire(event: JobEvent) -> Event:
    """An event as OpenAI writes it."""
    return Event(
        id=event.id,
        created_at=int(event.created_at),
        level=event.level,
        message=event.message,
        type=event.type,
        data=event.data,
    )


def checkpoint_wire(view: CheckpointView) -> Checkpoint:
    """A checkpoint as OpenAI writes it."""
    checkpoint = view.checkpoint
    names = CheckpointMetrics.model_fields.keys() - {"step"}
    measured = {name: checkpoint.metrics.get(name) for name in names}
    return Checkpoint(
        id=checkpoint.id,
        created_at=int(checkpoint.created_at),
        fine_tuned_model_checkpoint=view.model,
        fine_tuning_job_id=checkpoint.job_id,
        step_number=checkpoint.step,
        metrics=CheckpointMetrics(step=checkpoint.step, **measured),
    )


def log_wire(log: LogText) -> Log:
    """A piece of a log."""
    return Log(attempt=log.attempt, text=log.text, cursor=log.cursor)


def progress_wire(view: JobView) -> Json:
    """How far a job is, for people who wait."""
    progress = view.progress
    return {
        "status": view.status,
        "phase": str(view.job.phase),
        "step": progress.step,
        "total_steps": progress.total_steps,
        "loss": progress.loss,
        "losses": list(progress.losses),
        "valid_loss": progress.valid_loss,
        "tokens_per_s": progress.tokens_per_s,
        "eta_s": progress.eta_seconds,
        "trained_tokens": progress.trained_tokens,
    }


def _error(error: Json) -> JobError:
    ours = {"findings": error["findings"]} if error.get("findings") else None
    return JobError(
        code=error.get("code") or "job_failed",
        message=error.get("message") or "The job failed.",
        param=error.get("param"),
        graftwork=ours,
    )


def gate_wire(evaluation: Evaluation | None) -> Json | None:
    """What the gate said: verdict, reasons, table and findings, and which evaluation it read."""
    if evaluation is None:
        return None
    said = evaluation.report.get("gate") or {}
    return {**said, "verdict": str(evaluation.verdict), "evaluation": evaluation.id}


def _extras(view: JobView) -> JobExtras:
    job = view.job
    return JobExtras(
        phase=str(job.phase),
        adapter=view.adapter,
        method=options_of(job).method or "sft",
        trainer=trainer_of(options_of(job)),
        started_from=(job.asked.get("start") or {}).get("model"),
        version=None if view.version is None else view.version.number,
        gate=gate_wire(view.evaluation),
        progress=progress_wire(view),
        plan=_plan(job.plan),
        cost={
            "settled_micro": view.cost,
            "reserved_micro": view.reserved,
            "settled": dollars(view.cost),
            "reserved": dollars(view.reserved),
        },
    )


def _plan(plan: Json | None) -> Json | None:
    """The plan as its owner sees it: what was chosen and why, without what phases hand on to each other."""
    if plan is None:
        return None
    schedule = (plan.get("spec") or {}).get("schedule") or {}
    return {
        "schedule": {name: value for name, value in schedule.items() if name != "explained"} or None,
        "explained": schedule.get("explained") or {},
        "lora": (plan.get("spec") or {}).get("lora"),
        "estimate": plan.get("estimate"),
        "quote": plan.get("quote"),
    }
