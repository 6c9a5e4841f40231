"""``python -m graftwork.training --run URI [--run URI …]``, or ``--assignments URI``."""

from __future__ import annotations

import sys
from typing import Annotated

from cyclopts import App, Parameter

from graftwork.training import main

app = App(name="python -m graftwork.training", help="Train the LoRA adapters of one or several run folders.")


@app.default
def trainer(
    *,
    run: Annotated[list[str] | None, Parameter(name=("--run", "--uri"))] = None,
    assignments: str | None = None,
    processes: int = 1,
) -> int:
    """Train the runs until each has ended.

    Parameters
    ----------
    run
        A run folder; a path or file:// URL, optionally ending in #ATTEMPT. Give it once for each run.
        torchrun takes --run for an option of its own: say --uri there.
    assignments
        A list of run folders, read again between steps: runs join by being listed.
    processes
        How many processes of this node share the run; one for each GPU.
    """
    return main(run or [], assignments, processes)


if __name__ == "__main__":
    sys.exit(app())
