"""``graft trainer``: what a machine executes."""

from __future__ import annotations

import importlib.util
import os
import sys

from graftwork.core.errors import InvalidRequest


def trainer(*, run: list[str] | None = None, assignments: str | None = None, processes: int = 1) -> None:
    """Train the runs in these folders, which share one base model, and exit.

    Parameters
    ----------
    run:
        Path or URI of a run folder; give it once for each run.
    assignments:
        Path or URI of a list of run folders, read again between steps.
    processes:
        How many processes of this node share the run; one for each GPU.
    """
    if importlib.util.find_spec("torch") is None:
        raise InvalidRequest(
            "The trainer needs PyTorch.",
            fix="Install it with: pip install 'graftwork[train]'",
            code="no_torch",
        )
    # Become the trainer instead of importing it: no module of the command line may reach torch.
    arguments = [part for uri in run or [] for part in ("--run", uri)]
    arguments += [] if assignments is None else ["--assignments", assignments]
    arguments += [] if processes == 1 else ["--processes", str(processes)]
    os.execv(sys.executable, [sys.executable, "-m", "graftwork.training", *arguments])  # noqa: S606
