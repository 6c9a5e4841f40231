"""Weights & Biases, by its own package in a process of its own: online, or offline for ``wandb sync``."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from graftwork.core.errors import Unavailable
from graftwork.core.ids import slug
from graftwork.runs.documents import Metrics
from graftwork.trackers import wandb_send
from graftwork.trackers.port import Ending, Subject, values

Mode = Literal["online", "offline"]
_SECONDS = 300.0
"""How long one telling may take."""


class WandB:
    """One W&B account, or a folder: a project for each of ours, a run for each job.

    Online, ``$WANDB_API_KEY`` opens it. Offline, each telling is a folder ``wandb/offline-run-…``, all of one
    job under one run id: ``wandb sync`` brings them up in their order, as one run.
    """

    name = "wandb"

    def __init__(self, folder: Path, mode: Mode, *, python: str = sys.executable) -> None:
        self._folder = folder
        self._mode: Mode = mode
        self._python = python

    async def tell(self, subject: Subject, metrics: Sequence[Metrics]) -> str:
        """See ``Tracker.tell``."""
        rows = [[event.step, values(event)] for event in metrics if event.step > subject.step]
        run = slug(subject.job_id)
        await self._send(subject, run, rows, 0)
        return run

    async def end(self, subject: Subject, ending: Ending, at: float) -> None:
        """See ``Tracker.end``: W&B knows an exit code."""
        await self._send(
            subject, subject.remote or slug(subject.job_id), [], 0 if ending == "succeeded" else 1
        )

    async def _send(self, subject: Subject, run: str, rows: list[Any], exit_code: int) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        asked = {
            "folder": str(self._folder),
            "mode": self._mode,
            "id": run,
            "project": slug(subject.group.replace("/", "-")) or "graftwork",
            "group": subject.group,
            "name": subject.name,
            "config": dict(subject.parameters),
            "rows": rows,
            "exit_code": exit_code,
        }
        process = await asyncio.create_subprocess_exec(
            self._python,
            "-P",  # the script's folder holds modules of other packages' names
            str(Path(wandb_send.__file__)),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
            env={**os.environ, "WANDB_SILENT": "true"},
            start_new_session=True,
        )
        try:
            async with asyncio.timeout(_SECONDS):
                _, errors = await process.communicate(json.dumps(asked).encode())
        except TimeoutError as error:
            raise Unavailable("W&B took too long.", code="wandb_away") from error
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        if process.returncode:
            words = errors.decode(errors="replace").strip().splitlines()[-1:]
            raise Unavailable(f"W&B was not told: {''.join(words)[:300]}", code="wandb_away")
