"""Tells Weights & Biases some steps: a script, in a process of its own, asked in JSON on standard input.

It needs the ``wandb`` package (extra ``[wandb]``) and nothing of ours. The package starts threads and a
service beside the process; here they end with it, and the server does not notice.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any


def main() -> None:
    """Log what is asked, and end."""
    asked: dict[str, Any] = json.load(sys.stdin)
    os.environ.setdefault("WANDB_DIR", asked["folder"])
    os.environ.setdefault("WANDB_CACHE_DIR", os.path.join(asked["folder"], "cache"))  # noqa: PTH118 - a script
    import wandb  # pyright: ignore[reportMissingImports] - an extra

    run = wandb.init(
        id=asked["id"],
        resume="allow",
        mode=asked["mode"],
        dir=asked["folder"],
        project=asked["project"],
        group=asked["group"],
        name=asked["name"],
        config=asked["config"],
        settings=wandb.Settings(silent=True, console="off", x_disable_stats=True, disable_git=True),
    )
    # The service itself drops a step below the one it has: a repeated telling adds nothing.
    for step, values in asked["rows"]:
        run.log(values, step=step)
    run.finish(exit_code=asked["exit_code"])


if __name__ == "__main__":
    main()
