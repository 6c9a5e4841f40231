"""``graft trainer``: what a machine executes."""

from __future__ import annotations

import importlib.util

from graftwork.core.errors import InvalidRequest


def trainer(*, run: list[str]) -> int:
    """Train the runs in these folders, which share one base model, and exit.

    Parameters
    ----------
    run:
        Path or URI of a run folder; give it once for each run.
    """
    if importlib.util.find_spec("torch") is None:
        raise InvalidRequest(
            "The trainer needs PyTorch.",
            fix="Install it with: pip install 'graftwork[train]'",
            code="no_torch",
        )
    from graftwork.training import main as train_main

    return train_main(run)
