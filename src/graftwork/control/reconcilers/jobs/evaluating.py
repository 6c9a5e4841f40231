"""Evaluating and gating: the new weights, the base and the live version, measured on the same held-out rows
through the path that serves customers; then the gate's verdict."""

from __future__ import annotations

import json

from graftwork.control.names import adapter_name
from graftwork.control.plan import JobPlan, Live, Trained, plan_of
from graftwork.control.reconcilers.endpoints import FAILED
from graftwork.control.reconcilers.jobs.context import Context
from graftwork.control.reconcilers.jobs.endings import failed
from graftwork.control.reconcilers.jobs.step import Note, Step
from graftwork.control.services.methods import PREFERENCES
from graftwork.core import ids
from graftwork.core.errors import GraftworkError, PlatformError
from graftwork.core.nouns import Endpoint, Evaluation, Job, Placement
from graftwork.core.specs import RunSpec
from graftwork.core.states import Phase, PlacementState, Verdict
from graftwork.data import Row, read_canonical
from graftwork.evals.evaluate import evaluate
from graftwork.evals.gate import DEFAULT_GATE, PREFERENCE_GATE, decide
from graftwork.evals.report import TrainerLosses, assemble
from graftwork.evals.results import Scores
from graftwork.evals.rules import Comparison
from graftwork.registry import DEFAULT_ALIAS, digest
from graftwork.serving.client import EngineClient
from graftwork.serving.port import BASE, engine_name
from graftwork.store import Tx


async def evaluating(ctx: Context, job: Job) -> Step:
    """Have the new weights placed, then measure them beside the base and the live version."""
    plan = plan_of(job)
    trained = _trained(plan)
    if not plan.placed:
        return await _place(ctx, job, plan, trained)
    endpoint, placements = await _served(ctx, job, plan, trained)
    if endpoint is None or placements is None:  # another job with equal weights ended, and they were let go
        return await _place(ctx, job, plan, trained)
    waiting = [placement for placement in placements if not _ready(placement, endpoint)]
    broken = next((placement for placement in waiting if placement.state is PlacementState.FAILED), None)
    if broken is not None and broken.weights == trained.weights:
        return failed(
            ctx, job, "adapter_not_servable", f"The adapter cannot be served: {broken.reason or 'unknown'}"
        )
    if broken is None and (waiting or endpoint.state != "ready"):
        return Step(notes=engine_trouble(endpoint), delay=ctx.limits.watch)
    scores = await _measure(ctx, plan, trained, endpoint, live=broken is None)
    blob = await ctx.artifacts.put(json.dumps(scores, sort_keys=True).encode())
    return Step(move=Phase.GATING, changes={"plan": plan.with_(scores=blob)})


async def evaluation_crashed(ctx: Context, job: Job, why: str) -> Step:
    """The evaluation fails again and again: its scores say so, and the gate closes on them."""
    plan = plan_of(job)
    names = ["new", "base", *(["live"] if plan.live else [])]
    scores = {name: Scores.failed(name, why).to_json() for name in names}
    blob = await ctx.artifacts.put(json.dumps(scores, sort_keys=True).encode())
    note = Note(message=f"The evaluation failed: {why}", level="warn")
    return Step(move=Phase.GATING, changes={"plan": plan.with_(scores=blob)}, notes=(note,))


async def gating(ctx: Context, job: Job) -> Step:
    """The verdict on the stored scores; inconclusive where they are not whole (law 8 of the design)."""
    plan = plan_of(job)
    trained = _trained(plan)
    if plan.scores is None:
        raise PlatformError(f"Job {job.id} has no scores.", code="scores_missing")
    stored = json.loads(await ctx.artifacts.get(plan.scores))
    scores = {name: Scores.from_json(data) for name, data in stored.items()}
    comparison = Comparison(scores["new"], scores["base"], scores.get("live"))
    by_preference = _spec(plan).method in PREFERENCES
    asked = PREFERENCE_GATE if by_preference else DEFAULT_GATE
    gate = decide(comparison.new, comparison.base, comparison.live, asked)
    losses = TrainerLosses(
        valid_loss=trained.valid_loss,
        base_valid_loss=trained.base_valid_loss,
        valid_tokens=trained.valid_tokens or None,
    )
    if by_preference:  # the trainer's loss is then one of pairs: nothing that is served has it
        losses = TrainerLosses()
    evaluation = Evaluation(
        id=ids.new_id(ids.EVALUATION),
        project_id=job.project_id,
        job_id=job.id,
        weights=trained.weights,
        verdict=gate.verdict,
        report=assemble(comparison, gate, losses),
        created_at=ctx.clock.now(),
    )

    async def write(tx: Tx) -> None:
        await tx.evaluations.create(evaluation)

    passed = gate.verdict is Verdict.PASS
    note = Note(
        message=f"The gate's verdict is {gate.verdict}. {' '.join(gate.reasons)}".strip(),
        level="info" if passed else "warn",
    )
    return Step(move=Phase.REGISTERING, notes=(note,), writes=(write,))


async def _place(ctx: Context, job: Job, plan: JobPlan, trained: Trained) -> Step:
    """Write down what must be served for the evaluation, and against what the gate will compare."""
    entry = await ctx.bases.get(job.base)
    now = ctx.clock.now()
    live = plan.live
    if not plan.placed:
        async with ctx.store.read() as tx:
            live = await _live(tx, job, trained)

    async def write(tx: Tx) -> None:
        endpoint = await tx.endpoints.ensure(job.base, ctx.bases.engine(entry), now)
        for weights in [trained.weights, *([live.weights] if live else [])]:
            await tx.placements.ensure(endpoint.id, job.project_id, weights, now)

    note = Note(message="Evaluating the new adapter on the held-out rows.", dedupe="evaluating")
    return Step(changes={"plan": plan.with_(live=live, placed=True)}, notes=(note,), writes=(write,))


async def _live(tx: Tx, job: Job, trained: Trained) -> Live | None:
    adapter = await tx.adapters.get_by_name(job.project_id, adapter_name(job))
    alias = None if adapter is None else await tx.aliases.get(adapter.id, DEFAULT_ALIAS)
    version = None if alias is None else await tx.versions.get(job.project_id, alias.version_id)
    if alias is None or version is None:
        return None
    return Live(version_id=version.id, weights=version.weights, generation=alias.generation)


def engine_trouble(endpoint: Endpoint) -> tuple[Note, ...]:
    """A line for the log when a job waits for an engine that does not start; said once for each reason."""
    if endpoint.state != FAILED:
        return ()
    why = endpoint.message or "unknown"
    message = f"Waiting for the engine of {endpoint.base}, which does not start: {why}"
    return (Note(message=message, level="warn", dedupe=f"engine:{digest(why)[:16]}"),)


async def _served(
    ctx: Context, job: Job, plan: JobPlan, trained: Trained
) -> tuple[Endpoint | None, list[Placement] | None]:
    """The endpoint, and the placements of what is compared; None where one is not wanted any more."""
    wanted = [trained.weights, *([plan.live.weights] if plan.live else [])]
    async with ctx.store.read() as tx:
        endpoint = await tx.endpoints.by_base(job.base)
        placements = [await tx.placements.by_weights(weights) for weights in wanted]
    found = [placement for placement in placements if placement is not None]
    return endpoint, found if len(found) == len(wanted) else None


def _ready(placement: Placement, endpoint: Endpoint) -> bool:
    return placement.state is PlacementState.READY and placement.generation == endpoint.generation


async def _measure(
    ctx: Context, plan: JobPlan, trained: Trained, endpoint: Endpoint, *, live: bool
) -> dict[str, object]:
    """Scores by name, as JSON. An evaluation that does not succeed is kept as such: the gate closes on it."""
    rows = await _held_out(ctx, plan)
    names = {"new": engine_name(trained.weights), "base": BASE}
    if plan.live is not None:
        names["live"] = engine_name(plan.live.weights)
    client = ctx.connect(endpoint)
    try:
        return {
            name: (
                await _scores(ctx, client, model, rows, plan, name)
                if live or name != "live"
                else Scores.failed(name, "the live version cannot be served")
            ).to_json()
            for name, model in names.items()
        }
    finally:
        await client.aclose()


async def _scores(
    ctx: Context, client: EngineClient, model: str, rows: list[Row], plan: JobPlan, name: str
) -> Scores:
    """One model's scores; after several tries, the reason why there are none."""
    spec = _spec(plan)
    renderer = await ctx.bases.renderer(spec.base.name)
    trouble = ""
    for attempt in range(ctx.limits.evaluation_tries):
        if attempt:
            await ctx.clock.sleep(ctx.limits.waiting * 2.0**attempt)
        try:
            return await evaluate(
                client,
                model,
                rows,
                renderer,
                max_rows=ctx.limits.evaluation_rows,
                max_length=spec.schedule.max_length,
                label=name,
                clock=ctx.clock,
            )
        except GraftworkError as error:
            trouble = error.message
    return Scores.failed(name, trouble)


async def _held_out(ctx: Context, plan: JobPlan) -> list[Row]:
    return [] if plan.valid is None else read_canonical(await ctx.artifacts.get(plan.valid.sha256))


def _trained(plan: JobPlan) -> Trained:
    if plan.trained is None:
        raise PlatformError("A job without trained weights cannot be evaluated.", code="weights_missing")
    return plan.trained


def _spec(plan: JobPlan) -> RunSpec:
    if plan.spec is None:
        raise PlatformError("A job without a plan cannot be evaluated.", code="plan_missing")
    return plan.spec
