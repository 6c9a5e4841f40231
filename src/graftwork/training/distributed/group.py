"""The processes of one run, talking: what they add up, what they agree on, and how a lost one is noticed."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import TypeVar

import torch
from torch import distributed

from graftwork.core.errors import TrainingError
from graftwork.training.distributed.world import LOST, NOTES, World

T = TypeVar("T")
PATIENCE = timedelta(minutes=10)
"""How long a rank waits for the others in one operation; a dead one is noticed at once, a stuck one then."""


class RankLost(TrainingError):
    """Another process of the run ended, or cannot be reached."""

    code = "rank_lost"


class Group:
    """All ranks of a run, seen from one of them. Every rank makes the same calls in the same order.

    Attributes:
        rank: this process's number; 0 is the leader, the only one that writes.
        size: how many there are.
        device: of this rank.
    """

    def __init__(self, rank: int, size: int, device: torch.device) -> None:
        self.rank, self.size, self.device = rank, size, device

    @property
    def leads(self) -> bool:
        """Whether this rank writes the run folder."""
        return self.rank == 0

    def add(self, tensor: torch.Tensor) -> None:
        """Replace ``tensor`` by its sum over the ranks; the same bits on each."""
        with guarded():
            distributed.all_reduce(tensor)

    def gather(self, numbers: list[float]) -> list[list[float]]:
        """Everybody's numbers, by rank; as many on each."""
        mine = torch.tensor(numbers, dtype=torch.float64)
        found = [torch.empty_like(mine) for _ in range(self.size)]
        with guarded():
            distributed.all_gather(found, mine)
        return [part.tolist() for part in found]

    def show(self, mine: T) -> list[T]:
        """Everybody's object, by rank."""
        found: list[T | None] = [None] * self.size
        with guarded():
            distributed.all_gather_object(found, mine)
        return found  # pyright: ignore[reportReturnType] - all are filled


@contextmanager
def joined(world: World) -> Iterator[Group]:
    """Meet the other ranks, and part from them when all went well.

    Raises:
        RankLost: they did not come.
    """
    assert world.rank is not None and world.size is not None
    cuda = torch.cuda.is_available()
    if cuda:
        torch.cuda.set_device(world.local_rank)
    with guarded():
        distributed.init_process_group(
            "cpu:gloo,cuda:nccl" if cuda else "gloo",
            # Under torchrun the rendezvous is its own: the variables say how to reach it.
            init_method="env://" if world.source == "torchrun" else f"tcp://{world.address}:{world.port}",
            rank=world.rank,
            world_size=world.size,
            timeout=PATIENCE,
        )
    device = torch.device("cuda", world.local_rank) if cuda else torch.device("cpu")
    yield Group(world.rank, world.size, device)
    distributed.destroy_process_group()  # not after an error: it might wait for the dead


@contextmanager
def guarded() -> Iterator[None]:
    """Errors of communication become ``RankLost``; others pass.

    FSDP communicates inside of a model's forward and backward, so whole engine calls are guarded. Under a
    supervisor (``launch.py``) the process ends instead: the supervisor sees which one went, and says so.
    """
    try:
        yield
    except RuntimeError as error:
        if not _is_communication(error):
            raise
        if NOTES in os.environ:
            sys.stderr.write(f"graftwork trainer: another process of this run is gone ({error})\n")
            sys.exit(LOST)
        raise RankLost(
            f"Another process of this run ended or cannot be reached ({str(error).splitlines()[0]}).",
            fix="The next attempt goes on from the last checkpoint.",
        ) from error


def _is_communication(error: RuntimeError) -> bool:
    if isinstance(error, torch.OutOfMemoryError):
        return False
    text = str(error).lower()
    return isinstance(error, distributed.DistError) or any(
        word in text for word in ("gloo", "nccl", "connection closed by peer", "connection reset by peer")
    )
