"""What a trainer wrote into its run folder becomes rows: events, progress, checkpoints, each once."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass, field, replace

from graftwork.control.reconcilers.jobs.context import Context
from graftwork.control.reconcilers.jobs.step import Note, Step, Write
from graftwork.control.reconcilers.jobs.weights import stored_weights
from graftwork.core import ids
from graftwork.core.errors import InvalidData
from graftwork.core.nouns import Checkpoint, Job, Json
from graftwork.core.states import Phase
from graftwork.runs.documents import CheckpointManifest, Heartbeat, Message, Metrics
from graftwork.store import Tx

log = logging.getLogger("graftwork.control")

FILES = 200
"""Event files taken in by one transaction."""
_CHECKPOINTS = 1000


@dataclass(frozen=True, slots=True)
class News:
    """What one look found that is not in the database yet."""

    changes: Json = field(default_factory=dict)
    notes: tuple[Note, ...] = ()
    writes: tuple[Write, ...] = ()

    @property
    def empty(self) -> bool:
        """Whether everything was known."""
        return not (self.notes or self.writes or "progress" in self.changes)

    def step(self, move: Phase | None, delay: float) -> Step:
        """Write it down, with the cursor that says so."""
        return Step(move=move, changes=self.changes, notes=self.notes, writes=self.writes, delay=delay)


async def take_in(ctx: Context, job: Job, beat: Heartbeat | None, *, over: bool) -> News:
    """Read what is new in the newest attempt. ``over``: nothing more will be written to it."""
    async with ctx.store.read() as tx:
        run = await tx.runs.get(job.id, job.fence)
        page = await tx.checkpoints.list(job.id, limit=_CHECKPOINTS)
    known = {checkpoint.step for checkpoint in page.items}
    cursor = run.cursor if run is not None else 0
    reader = ctx.reader(job)
    events, reached = await asyncio.to_thread(reader.events, job.fence, cursor, FILES)
    steps = [event.step for event in events if isinstance(event, Metrics)]
    step = max([*steps, beat.step if beat else 0])
    news = News(
        changes=_progress(job, step, beat),
        notes=tuple(_note(event, beat) for event in events),
        writes=(_advance(job, reached),) if reached > cursor else (),
    )
    if not (events or over):
        return news
    complete = await asyncio.to_thread(reader.checkpoints, job.fence)
    fresh = [await _checkpoint(ctx, job, *pair) for pair in complete if pair[1].step not in known]
    return replace(news, writes=(*news.writes, *fresh))


def _progress(job: Job, step: int, beat: Heartbeat | None) -> Json:
    changes: Json = {}
    if step > job.progress:
        changes.update(progress=step, losses=0)
    if beat is not None and beat.eta_s is not None:
        finish = beat.at + beat.eta_s
        if job.estimated_finish is None or abs(finish - job.estimated_finish) >= 1.0:
            changes["estimated_finish"] = finish
    return changes


def _note(event: Metrics | Message, beat: Heartbeat | None) -> Note:
    if isinstance(event, Message):
        told = None if event.code is None else {"code": event.code}
        return Note(message=event.message, level=event.level, data=told, at=event.at)
    total = beat.total_steps if beat is not None else None
    losses = f"training loss={event.loss:.4g}"
    if event.valid_loss is not None:
        losses += f", validation loss={event.valid_loss:.4g}"
    data: Json = {
        "step": event.step,
        "total_steps": total,
        "train_loss": event.loss,
        "train_mean_token_accuracy": event.train_accuracy,
        "valid_loss": event.valid_loss,
        "valid_mean_token_accuracy": event.valid_accuracy,
        "full_valid_loss": event.full_valid_loss,
        "full_valid_mean_token_accuracy": event.valid_accuracy if event.full_valid_loss is not None else None,
        "epoch": event.epoch,
        "lr": event.lr,
        "grad_norm": event.grad_norm,
        "tokens": event.tokens,
        "tokens_per_s": event.tokens_per_s,
        "memory_mb": event.memory_mb,
        **event.extra,
    }
    return Note(
        message=f"Step {event.step}/{total or '?'}: {losses}",
        type="metrics",
        data={key: value for key, value in data.items() if value is not None},
        at=event.at,
        dedupe=f"step:{event.step}",
    )


def _advance(job: Job, cursor: int) -> Write:
    async def write(tx: Tx) -> None:
        await tx.runs.advance(job.id, job.fence, cursor)

    return write


async def _checkpoint(ctx: Context, job: Job, fence: int, manifest: CheckpointManifest) -> Write:
    """Copy the adapter part into artifacts; the write makes the checkpoint known and callable.

    One whose files are no adapter that may be served is known all the same, and not callable.
    """
    try:
        files = manifest.adapter_files()
        weights = await stored_weights(ctx, job, manifest.dir, files, manifest.probes)
    except InvalidData as error:
        log.warning("job %s: checkpoint %d is not callable: %s", job.id, manifest.step, error.message)
        weights = None
    checkpoint = Checkpoint(
        id=ids.new_id(ids.CHECKPOINT),
        job_id=job.id,
        fence=fence,
        step=manifest.step,
        created_at=manifest.at,
        metrics={"step": manifest.step, **manifest.metrics},
        weights=None if weights is None else weights.digest,
    )

    async def write(tx: Tx) -> None:
        if weights is not None:
            await tx.weights.create(weights)
        await tx.checkpoints.add(checkpoint)

    return write
