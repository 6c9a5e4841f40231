"""The end of a good attempt: its adapter is stored, its tokens are paid for, and it goes to evaluation."""

from __future__ import annotations

from graftwork.billing import settle_training
from graftwork.control.plan import Trained, plan_of
from graftwork.control.reconcilers.jobs.context import Context
from graftwork.control.reconcilers.jobs.endings import lost
from graftwork.control.reconcilers.jobs.step import Note, Step
from graftwork.control.reconcilers.jobs.weights import stored_weights
from graftwork.core.errors import GraftworkError
from graftwork.core.nouns import Job
from graftwork.core.states import Outcome, Phase
from graftwork.runs.documents import Result
from graftwork.store import Tx


async def succeeded(ctx: Context, job: Job, result: Result) -> Step:
    """Take the adapter in, settle the trained tokens (once, by key), and move to evaluation."""
    if result.adapter is None:
        return await lost(ctx, job, "the trainer ended well but left no adapter")
    try:
        weights = await stored_weights(ctx, job, result.adapter.dir, result.adapter.files, result.probes)
    except GraftworkError as error:
        return await lost(ctx, job, f"the adapter it left cannot be used: {error.message}")
    plan, now = plan_of(job), ctx.clock.now()
    trained = Trained(
        fence=job.fence,
        weights=weights.digest,
        step=result.best_step if result.best_step is not None else result.step,
        tokens=result.tokens,
        seconds=result.seconds,
        train_loss=result.train_loss,
        valid_loss=result.valid_loss,
        base_valid_loss=result.base_valid_loss,
        valid_tokens=result.valid_tokens,
    )

    async def write(tx: Tx) -> None:
        await tx.weights.create(weights)
        if plan.quote is not None:
            await settle_training(tx, job_id=job.id, quoted=plan.quote, tokens=result.tokens, at=now)
        await tx.runs.finish(job.id, job.fence, Outcome.SUCCEEDED, now)

    return Step(
        move=Phase.EVALUATING,
        changes={
            "plan": plan.with_(trained=trained),
            "trained_tokens": result.tokens,
            "progress": max(job.progress, result.step),
            "estimated_finish": None,
        },
        notes=(Note(message=f"Training finished at step {result.step}: {result.tokens} tokens trained."),),
        writes=(write,),
    )
