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
from graftwork.control.reconcilers.placements import PlacementReconciler
from graftwork.control.reconcilers.sweeper import Sweeper
from graftwork.control.services.exports import PushTokens
from graftwork.control.settings import Settings

SWEEP = 60.0
"""Seconds between two sweeps."""
EXPORTS = 1
"""Exports made at a time: each keeps a core busy."""


def build_reconcilers(
    ctx: Context, engines: Engines, settings: Settings, bell: Bell, tokens: PushTokens
) -> list[Loop]:
    """The reconcilers over one context; services share ``bell`` and ``tokens`` with them."""
    owner, pace = f"{socket.gethostname()}:{os.getpid()}", settings.pace
    return [
        JobReconciler(ctx, bell, pace, owner),
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
    ]


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
