"""What a trainer works with when it is one rank of several: a sharded engine, and attempts held in common."""

from __future__ import annotations

from collections.abc import Callable

import torch

from graftwork.core.specs import RunSpec
from graftwork.data.rendering import Renderer
from graftwork.training.attempt import Attempt, StopSignal, Time
from graftwork.training.base import load_renderer, locate_base
from graftwork.training.distributed.attempts import open_together
from graftwork.training.distributed.engine import ShardedEngine
from graftwork.training.distributed.group import Group
from graftwork.training.solo import SoloEngine


def loader(group: Group) -> Callable[[RunSpec], tuple[ShardedEngine, Renderer]]:
    """Like ``open_base``, for one rank: the base model passes through main memory, layer by layer."""

    def load(spec: RunSpec) -> tuple[ShardedEngine, Renderer]:
        folder = locate_base(spec.base)
        dtype = torch.bfloat16 if group.device.type == "cuda" else torch.float32
        solo = SoloEngine.load(folder, torch.device("cpu"), dtype)
        return ShardedEngine(solo, group), load_renderer(folder)

    return load


def opener(group: Group) -> Callable[[str, Time, StopSignal], Attempt]:
    """Like ``Attempt.open``, for one rank."""
    return lambda uri, clocks, stop: open_together(group, uri, clocks, stop)
