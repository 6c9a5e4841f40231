"""``python -m graftwork.training --run URI [--run URI …]``, or ``--assignments URI``."""

from __future__ import annotations

import sys

from cyclopts import App

from graftwork.training import main

app = App(name="python -m graftwork.training", help="Train the LoRA adapters of one or several run folders.")


@app.default
def trainer(*, run: list[str] | None = None, assignments: str | None = None) -> int:
    """Train the runs until each has ended.

    Parameters
    ----------
    run
        A run folder; a path or file:// URL, optionally ending in #ATTEMPT. Give it once for each run.
    assignments
        A list of run folders, read again between steps: runs join by being listed.
    """
    return main(run or [], assignments)


if __name__ == "__main__":
    sys.exit(app())
