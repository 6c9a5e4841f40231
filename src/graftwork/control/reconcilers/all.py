"""All reconcilers of one platform, and their running together."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace

from graftwork.control.bell import Bell
from graftwork.control.reconcilers.base import Loop
from graftwork.control.reconcilers.endpoints import EndpointReconciler, Engines
from graftwork.control.reconcilers.exports import ExportReconciler
from graftwork.control.reconcilers.jobs.context import Context
from graftwork.control.reconcilers.jobs.reconciler import JobReconciler
from graftwork.control.reconcilers.mirrors import MirrorReconciler
from graftwork.control.reconcilers.placements import PlacementReconciler
from graftwork.control.reconcilers.retention import Retention
from graftwork.control.reconcilers.sweeper import Sweeper
from graftwork.control.reconcilers.sweeps import SweepReconciler
from graftwork.control.services.exports import PushTokens
from graftwork.control.services.jobs import JobsService
from graftwork.control.settings import Settings
from graftwork.trackers.mlflow import MLflow
from graftwork.trackers.port import Tracker
from graftwork.trackers.tensorboard import TensorBoard
from graftwork.trackers.weights_biases import WandB

SWEEP = 60.0
"""Seconds between two sweeps."""
MIRROR = {"mlflow": 2.0, "tensorboard": 5.0, "wandb": 60.0}
"""Seconds between two tellings of a job's steps to a tracker."""
EXPORTS = 1
"""Exports made at a time: each keeps a core busy."""


def build_reconcilers(
    ctx: Context, engines: Engines, settings: Settings, bell: Bell, tokens: PushTokens
) -> list[Loop]:
    """The reconcilers over one context; services share ``bell`` and ``tokens`` with them."""
    jobs = JobsService(ctx.store, ctx.bases, ctx.clock, bell)
    owner, pace = f"{socket.gethostname()}:{os.getpid()}", settings.pace
    return [
        JobReconciler(ctx, bell, pace, owner),
        SweepReconciler(ctx.store, jobs, ctx.clock, bell, pace, owner, ctx.limits.watch),
        EndpointReconciler(ctx.store, ctx.bases, engines, ctx.clock, bell, pace),
        PlacementReconciler(
            ctx.store,
            ctx.artifacts,
            engines,
            folder=settings.data / "adapters",
            connect=ctx.connect,
            bound=settings.bound,
            clock=ctx.clock,
            bell=bell,
            pace=pace,
            owner=owner,
            patience=settings.patience,
        ),
        ExportReconciler(
            ctx.store,
            ctx.artifacts,
            ctx.bases,
            tokens,
            folder=settings.data / "exports",
            clock=ctx.clock,
            bell=bell,
            pace=replace(pace, width=EXPORTS),
            owner=owner,
        ),
        Sweeper(
            ctx.store,
            ctx.pools,
            ctx.install,
            ctx.clock,
            bell,
            replace(pace, poll=SWEEP),
            settings.graces,
        ),
        *(
            MirrorReconciler(
                ctx.store,
                tracker,
                ctx.reader,
                clock=ctx.clock,
                bell=bell,
                pace=replace(pace, poll=max(pace.poll, MIRROR[tracker.name])),
                owner=owner,
            )
            for tracker in trackers_of(settings)
        ),
        Retention(ctx.store, ctx.clock, bell, replace(pace, poll=SWEEP)),
    ]


def trackers_of(settings: Settings) -> list[Tracker]:
    """The trackers that the settings name."""
    found: list[Tracker] = []
    if settings.mlflow:
        user, password = (os.environ.get(f"MLFLOW_TRACKING_{name}") for name in ("USERNAME", "PASSWORD"))
        token = os.environ.get("MLFLOW_TRACKING_TOKEN")
        found.append(MLflow(settings.mlflow, token=token, login=(user, password or "") if user else None))
    if settings.tensorboard is not None:
        found.append(TensorBoard(settings.tensorboard))
    if settings.wandb:
        found.append(WandB(settings.data / "wandb", settings.wandb))
    return found


@asynccontextmanager
async def running(loops: Sequence[Loop], bell: Bell) -> AsyncIterator[None]:
    """Run the loops inside the block. At its end they claim nothing more and let go of what they hold."""
    stop = asyncio.Event()
    tasks = [asyncio.create_task(loop.run(stop), name=loop.name) for loop in loops]
    try:
        yield
    finally:
        stop.set()
        bell.ring()
        await asyncio.gather(*tasks, return_exceptions=True)
