"""``python -m graftwork.training --run URI [--run URI …]``."""

from __future__ import annotations

import sys

from cyclopts import App

from graftwork.training import main

app = App(name="python -m graftwork.training", help="Train the LoRA adapters of one or several run folders.")


@app.default
def trainer(*, run: list[str]) -> int:
    """Train the runs until each has ended.

    Parameters
    ----------
    run
        A run folder; a path or file:// URL, optionally ending in #ATTEMPT. Give it once for each run.
    """
    return main(run)


if __name__ == "__main__":
    sys.exit(app())
