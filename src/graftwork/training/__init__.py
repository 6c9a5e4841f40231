"""The trainer: engines, losses, batching, checkpoints, export. Torch lives here."""

from __future__ import annotations

import os
from collections.abc import Sequence


def main(uris: Sequence[str], assignments: str | None = None) -> int:
    """Train the runs at ``uris``, and those listed at ``assignments``, all of one base model; the exit code.

    Torch is imported by the call, not by importing this package.
    """
    # OpenMP's threads spin while they wait. On cores shared with a server that made training ten times slower
    # (495 s against 51 s). It must be said before torch is imported.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    from graftwork.training.train_lora import main as train

    return train(uris, assignments)
