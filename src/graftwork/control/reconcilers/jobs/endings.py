"""How jobs end other than well, and how attempts end. Always in this order: machine, money, job."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Any

from graftwork.billing import release_training, settle_training
from graftwork.control.plan import plan_of
from graftwork.control.reconcilers.jobs.company import leave, others_aboard
from graftwork.control.reconcilers.jobs.context import Context
from graftwork.control.reconcilers.jobs.machines import machine_of
from graftwork.control.reconcilers.jobs.sight import look, tell
from graftwork.control.reconcilers.jobs.step import Level, Note, Step
from graftwork.core.errors import Conflict, GraftworkError
from graftwork.core.nouns import Job, Json
from graftwork.core.states import ON_MACHINE, Outcome, Phase
from graftwork.store import Tx

LOG_LINES = 12
"""Lines of a lost attempt's log shown to its owner."""


def failed(
    ctx: Context, job: Job, code: str, message: str, *, param: str | None = None, **extra: Any
) -> Step:
    """The job ends with an error its owner can read; what was reserved for its tokens is released.

    The caller has seen to it that no machine of the job is left.
    """
    now = ctx.clock.now()
    error: Json = {"code": code, "message": message, "param": param, **extra}

    async def release(tx: Tx) -> None:
        await release_training(tx, job_id=job.id, at=now)
        await tx.runs.finish(job.id, job.fence, Outcome.FAILED, now)
        await _withdraw(tx, job, now)

    return Step(
        move=Phase.FAILED,
        changes={"error": error, "finished_at": now, "estimated_finish": None},
        notes=(Note(message=f"The job failed: {message}", level="error", data={"code": code}),),
        writes=(release,),
    )


async def cancelled(ctx: Context, job: Job) -> Step:
    """The job ends because its owner wanted it: its machine goes first, and what was trained is paid.

    A machine that others are on stays: its trainer is asked to let go of this run.
    """
    if job.phase in ON_MACHINE and await others_aboard(ctx, job):
        sight = await look(ctx, job)
        if not sight.over and ctx.clock.now() - sight.life < ctx.limits.parting:
            await tell(ctx, job, sight)
            return Step(delay=ctx.limits.watch / 2)
    if not await leave(ctx, job):
        return Step(delay=ctx.limits.watch / 2)
    tokens = await trained_tokens(ctx, job)
    quote = plan_of(job).quote
    now = ctx.clock.now()

    async def pay(tx: Tx) -> None:
        if quote is not None:
            await settle_training(tx, job_id=job.id, quoted=quote, tokens=tokens, at=now)
        await tx.runs.finish(job.id, job.fence, Outcome.CANCELLED, now)
        await _withdraw(tx, job, now)

    return Step(
        move=Phase.CANCELLED,
        changes={"finished_at": now, "estimated_finish": None, "trained_tokens": tokens or None},
        notes=(Note(message="The job was cancelled."),),
        writes=(pay,),
    )


def paused(ctx: Context, job: Job) -> Step:
    """The job rests until its owner resumes it; it holds no machine."""
    note = Note(message=f"The job is paused at step {job.progress}.")
    return _end_attempt(ctx, job, Phase.PAUSED, note)


def interrupted(ctx: Context, job: Job, why: str) -> Step:
    """Back to the queue: the attempt ended early through nobody's fault, the next one goes on from there."""
    return _again(ctx, job, f"Training was interrupted ({why}); it goes on from the last checkpoint.")


async def lost(ctx: Context, job: Job, why: str) -> Step:
    """The attempt ended without a result: again, unless nothing was gained by trying several times."""
    losses = job.losses + 1
    if losses >= ctx.limits.losses:
        log = await last_words(ctx, job)
        told = f"\nThe last lines of its log:\n{log}" if log else ""
        return failed(
            ctx,
            job,
            "training_lost",
            f"Training stopped {losses} times without progress, at step {job.progress}: {why}{told}",
        )
    message = f"An attempt was lost ({why}); training goes on from the last checkpoint on another machine."
    return _again(ctx, job, message, level="warn", losses=losses)


async def given_up(ctx: Context, job: Job, error: Exception, why: str) -> Step:
    """The platform cannot go on with the job: its machine goes first, then it ends with the error."""
    if not await leave(ctx, job):
        return Step(delay=ctx.limits.waiting)
    code = error.code if isinstance(error, GraftworkError) else "internal_error"
    return failed(ctx, job, code, why)


async def last_words(ctx: Context, job: Job) -> str:
    """The end of the newest attempt's log, as the trainer wrote it or as the machine kept it.

    The log of a machine that several runs had speaks of all of them: it is shown to none of their owners.
    """
    text, _ = await asyncio.to_thread(ctx.reader(job).log, job.fence)
    machine = await machine_of(ctx, job)
    async with ctx.store.read() as tx:
        runs = [] if machine is None else await tx.runs.on(machine.name)
    if not text.strip() and len(runs) < 2:
        pool = None if machine is None else ctx.pools.get(machine.provider)
        if machine is not None and pool is not None:
            page = await pool.provider.logs(machine.name)
            text = "\n".join(page.lines)
    return "\n".join(text.strip().splitlines()[-LOG_LINES:])


async def trained_tokens(ctx: Context, job: Job) -> int:
    """Tokens trained so far, over the unbroken curve: the word of the newest attempt that has one."""
    trained = plan_of(job).trained
    if trained is not None:
        return trained.tokens
    reader = ctx.reader(job)
    for fence in range(job.fence, 0, -1):
        result = await asyncio.to_thread(reader.result, fence)
        beat = await asyncio.to_thread(reader.heartbeat, fence)
        tokens = max(result.tokens if result else 0, beat.tokens if beat else 0)
        if tokens:
            return tokens
    return 0


async def _withdraw(tx: Tx, job: Job, now: float) -> None:
    """A job that does not end well leaves no version behind, and nothing loaded for its evaluation.

    A version that its owner has promoted meanwhile stays: what customers are answered with is not taken away.
    """
    version = await tx.versions.by_job(job.id)
    if version is not None:
        with suppress(Conflict):
            await tx.versions.mark_deleted(job.project_id, version.id, now)
    trained = plan_of(job).trained
    placement = None if trained is None else await tx.placements.by_weights(trained.weights)
    if placement is None or trained is None:
        return
    if all(version.weights != trained.weights for version in await tx.versions.all_for_snapshot()):
        await tx.placements.unwant(placement.id)


def _again(ctx: Context, job: Job, message: str, *, level: Level = "info", **changes: Any) -> Step:
    return _end_attempt(ctx, job, Phase.QUEUED, Note(message=message, level=level), **changes)


def _end_attempt(ctx: Context, job: Job, move: Phase, note: Note, **changes: Any) -> Step:
    now = ctx.clock.now()

    async def finish(tx: Tx) -> None:
        await tx.runs.finish(job.id, job.fence, Outcome.PAUSED, now)

    return Step(move=move, changes={"estimated_finish": None, **changes}, notes=(note,), writes=(finish,))
