"""The trainer: engines, losses, batching, checkpoints, export. Torch lives here."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence

from graftwork.core.errors import InvalidRequest


def main(uris: Sequence[str], assignments: str | None = None, processes: int = 1) -> int:
    """Train the runs at ``uris``, and those listed at ``assignments``, all of one base model; the exit code.

    With several processes or nodes this one starts those of its node and waits for them, unless a launcher
    (torchrun) has started them already. Torch is imported by the call, not by importing this package.
    """
    from graftwork.training.distributed.launch import launch
    from graftwork.training.distributed.world import ranks_of

    world = ranks_of(os.environ)
    if assignments is not None and (world.nodes > 1 or processes != 1):
        raise InvalidRequest(
            "Several processes train the runs that they were started with; they take no assignment list.",
            fix="Give each run by --run, or leave out --processes.",
            code="assignments_need_one_process",
            param="processes",
        )
    if world.rank is None and (processes != 1 or world.nodes > 1):
        return launch(uris, processes, world, os.environ)
    # OpenMP's threads spin while they wait. On cores shared with a server that made training ten times slower
    # (495 s against 51 s). It must be said before torch is imported.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    # PEFT imports bitsandbytes where it is installed, which then warns of a kernel that nothing here uses.
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    from graftwork.training.train_lora import main as train

    return train(uris, assignments, world)
