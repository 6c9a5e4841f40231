"""Preparing and training: what the trainer wrote is taken in, it is told what is wanted, and judged."""

from __future__ import annotations

from dataclasses import replace

from graftwork.compute.port import MachineInfo
from graftwork.control.plan import options_of
from graftwork.control.reconcilers.jobs.collecting import succeeded
from graftwork.control.reconcilers.jobs.company import assign, leave
from graftwork.control.reconcilers.jobs.context import Context
from graftwork.control.reconcilers.jobs.endings import failed, interrupted, lost, paused
from graftwork.control.reconcilers.jobs.intake import take_in
from graftwork.control.reconcilers.jobs.sight import Sight, look, tell
from graftwork.control.reconcilers.jobs.step import Note, Step
from graftwork.core.nouns import Job
from graftwork.core.states import Observed, Outcome, Phase, Want
from graftwork.runs.documents import Heartbeat, Result

_OURS = frozenset({"lease_lapsed", "signal", "pause"})
"""Why a trainer paused though it should run, where nobody is to blame: we were away, or changed our mind."""


async def watch(ctx: Context, job: Job) -> Step:
    """One look at a running attempt."""
    sight = await look(ctx, job)
    news = await take_in(ctx, job, sight.beat, over=sight.over)
    if not sight.over and not _overlooked(ctx, sight):
        await tell(ctx, job, sight)
        told = news.step(_forward(job, sight.beat), ctx.limits.watch)
        return replace(told, notes=(*await _company(ctx, job, sight), *told.notes))
    if not news.empty:
        return news.step(None, 0.0)  # the end is judged with everything known: progress counts
    if not await leave(ctx, job, over=sight.ended):
        return Step(delay=ctx.limits.watch / 2)
    return await _judge(ctx, job, sight)


def _forward(job: Job, beat: Heartbeat | None) -> Phase | None:
    trains = beat is not None and (beat.step > 0 or beat.phase != "loading")
    return Phase.TRAINING if trains and job.phase is Phase.PREPARING else None


def _overlooked(ctx: Context, sight: Sight) -> bool:
    """Whether a run that came aboard was never taken in, while the machine lives on for the others."""
    return sight.late and sight.beat is None and ctx.clock.now() - sight.life >= ctx.limits.stall


async def _company(ctx: Context, job: Job, sight: Sight) -> tuple[Note, ...]:
    """Keep the machine's assignment list true; who trains in company is told so, and with how many."""
    if not sight.machine.shared:
        return ()
    others = await assign(ctx, sight.machine) - 1
    if others < 1:
        return ()
    runs = "another run" if others == 1 else f"{others} other runs"
    message = f"Trains together with {runs} on one machine; each pays for it by the tokens it trains."
    data = {"code": "company", "others": others}
    return (Note(message=message, data=data, dedupe=f"company:{job.fence}:{others}"),)


async def _judge(ctx: Context, job: Job, sight: Sight) -> Step:
    """The attempt is over and its machine is gone: what becomes of the job."""
    result = sight.result
    if result is None and sight.beat is None and sight.late:
        return interrupted(ctx, job, "the machine it was to join had no time left for it")
    if result is None:
        return await lost(ctx, job, _cause(sight.info))
    match result.outcome:
        case Outcome.SUCCEEDED:
            return await succeeded(ctx, job, result)
        case Outcome.FAILED:
            return await _failure(ctx, job, result)
        case Outcome.CANCELLED:
            return interrupted(ctx, job, "it was cancelled from outside")
        case Outcome.PAUSED if job.want is Want.PAUSE:
            return paused(ctx, job)
        case Outcome.PAUSED if result.reason == "max_cost":
            cap = options_of(job).max_cost
            return failed(ctx, job, "max_cost_reached", f"The machine's cost reached max_cost (${cap}).")
        case Outcome.PAUSED if result.reason in _OURS:
            return interrupted(ctx, job, _why_paused(sight, result))
        case Outcome.PAUSED:
            return await lost(ctx, job, f"the trainer stopped itself: {result.reason}")


def _why_paused(sight: Sight, result: Result) -> str:
    if result.reason != "pause":
        return "the server was away"
    return sight.run.bumped or "resumed"


async def _failure(ctx: Context, job: Job, result: Result) -> Step:
    error = result.error
    if error is None:
        return await lost(ctx, job, "the trainer failed without saying why")
    if error.kind == "user":
        return failed(ctx, job, error.code, error.message, param=error.param or "training_file")
    return await lost(ctx, job, error.message)


def _cause(info: MachineInfo | None) -> str:
    if info is None or info.state is Observed.GONE:
        return "its machine is gone"
    code = "" if info.exit_code is None else f" (exit code {info.exit_code})"
    return f"its machine ended without a result{code}: {info.message or info.state}"
