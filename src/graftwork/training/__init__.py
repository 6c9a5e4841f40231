"""The trainer: engines, losses, batching, checkpoints, export. Torch lives here."""

from __future__ import annotations

from collections.abc import Sequence


def main(uris: Sequence[str]) -> int:
    """Train the runs at ``uris`` (all of one base model) until each has ended; returns the exit code.

    Torch is imported by the call, not by importing this package.
    """
    from graftwork.training.train_lora import main as train

    return train(uris)
