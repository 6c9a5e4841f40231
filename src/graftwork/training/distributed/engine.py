"""An engine whose base model lies in pieces on all ranks, and whose steps are shared among them.

The frozen base is sharded by FSDP2 (``fully_shard``, Zhao et al. 2023, arXiv:2304.11277): each rank holds
1/N of every layer, and all of a layer only while it computes with it. Adapters are small and whole on every
rank; each rank takes the gradient of its share of the rows, and the sum of all is everybody's gradient. A
session sees an engine like any other, and runs alike on every rank: what it decides by (losses, norms,
metrics) is the same on each, to the bit.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TypeVar

import torch
from torch import nn
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor
from transformers.modeling_layers import GradientCheckpointingLayer

from graftwork.core.errors import TrainingError
from graftwork.core.specs import LoraSpec
from graftwork.training.distributed.group import Group, guarded
from graftwork.training.distributed.share import deal, hand_of
from graftwork.training.engine import ANSWERS, Adapter, Rows, Sums, Work
from graftwork.training.solo import SoloEngine, recompute_activations

T = TypeVar("T")


class ShardedEngine:
    """See ``Engine``; every call is made by all ranks, with the same arguments.

    Args:
        solo: holds the whole base model, on the CPU or on this rank's device; sharded here.
        group: the ranks.
    """

    def __init__(self, solo: SoloEngine, group: Group) -> None:
        self._solo, self._group = solo, group
        self._roof = shard(solo, group.device)

    def add(self, lora: LoraSpec, seed: int) -> Adapter:
        """See ``Engine.add``. DoRA needs whole base weights, and is refused."""
        if lora.dora:
            raise TrainingError(
                "DoRA measures whole base weights, which no rank has.",
                fix="Train with one process, or without dora.",
                code="unsupported_method",
            )
        return self._solo.add(lora, seed)

    def remove(self, adapter: Adapter) -> None:
        """See ``Engine.remove``."""
        self._solo.remove(adapter)

    def save_memory(self) -> None:
        """See ``Engine.save_memory``; a sharded model recomputes from the start."""

    def forward_backward(self, work: Sequence[Work]) -> list[Sums | TrainingError]:
        """See ``Engine.forward_backward``. An error of one rank is raised: the others cannot go on."""
        return [self._step(item) for item in work]

    def evaluate(self, adapter: Adapter | None, rows: Rows) -> Sums:
        """See ``Engine.evaluate``; the rows are shared out."""
        share = deal([rows], self._group.size)[self._group.rank]
        sums = self._together(lambda: self._solo.evaluate(adapter, share.batches[0]))
        return self._sum(sums if share.counts else empty(sums), adapter)

    def scores(self, adapter: Adapter | None, rows: Rows) -> list[float]:
        """See ``Engine.scores``; the rows are shared out."""
        share = deal([rows], self._group.size)[self._group.rank]
        mine = self._together(lambda: self._solo.scores(adapter, share.batches[0]))
        table = torch.zeros(len(rows), dtype=torch.float64)
        if share.counts:
            table[share.examples] = torch.tensor(mine, dtype=torch.float64)
        self._group.add(table)
        return table.tolist()

    def logprobs(self, adapter: Adapter | None, tokens: Sequence[int], start: int) -> list[float]:
        """See ``Engine.logprobs``; every rank computes them all."""
        return self._together(lambda: self._solo.logprobs(adapter, tokens, start))

    def describe(self) -> dict[str, str | int | float]:
        """See ``Engine.describe``; with the ranks, and the bytes of the base model that each holds."""
        return {
            **self._solo.describe(),
            "processes": self._group.size,
            "base_bytes_per_process": held_bytes(self._solo.model),
        }

    def _together(self, act: Callable[[], T]) -> T:
        """Run a pass that all ranks run, and let go of what it gathered."""
        with guarded():
            result = act()
        self._roof.reshard()
        return result

    def _step(self, work: Work) -> Sums:
        mine, share = hand_of(work, self._group.rank, self._group.size)
        sums = self._together(lambda: self._solo.forward_backward([mine])[0])
        if isinstance(sums, TrainingError):
            raise sums
        gradient = work.adapter.grad
        if not share.counts:
            gradient.zero_()
            sums = empty(sums)
        elif work.objective is ANSWERS:
            gradient.mul_(mine.labelled / work.labelled)  # of the mean over mine, to my part of the whole's
        self._group.add(gradient)
        return self._sum(sums, work.adapter)

    def _sum(self, sums: Sums, adapter: Adapter | None) -> Sums:
        """Over the ranks, in their order; and a look at whether all still hold the same adapter."""
        names = sorted(sums.extra)
        held = float(adapter.weights.double().sum()) if adapter else 0.0
        extra = [sums.extra[name] for name in names]
        mine = [held, sums.loss, sums.tokens, sums.correct, sums.examples, *extra]
        everybody = self._group.gather(mine)
        if math.isfinite(held) and any(numbers[0] != held for numbers in everybody):
            raise TrainingError(
                "The processes of this run hold different adapters: one of them read another checkpoint.",
                fix="The next attempt starts from the last checkpoint on all of them.",
                code="ranks_disagree",
            )
        _, loss, tokens, correct, examples, *extra = [sum(column) for column in zip(*everybody, strict=True)]
        return Sums(
            loss,
            int(tokens),
            int(correct),
            int(examples),
            dict(zip(names, extra, strict=True)),
            sums.by_example,
        )


class Rooted(nn.Module):
    """A decoder and its head under one roof, so that what is in no layer (embeddings, norm, head) is sharded
    as one unit, and stays whole from the decoder's first layer until the head has its gradient."""

    def __init__(self, decoder: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.decoder, self.head = decoder, head

    def forward(self, **arguments: object) -> object:
        """The decoder's."""
        return self.decoder(**arguments)


def shard(solo: SoloEngine, device: torch.device) -> FSDPModule:
    """Cut the engine's base model in pieces, in place, each rank keeping its own on ``device``.

    Returns what holds the parts that are in no layer.

    Raises:
        TrainingError: ``unsupported_model``, it has no layers to cut at.
    """
    layers = outermost(solo.decoder)
    if not layers:
        raise TrainingError(
            f"{type(solo.model).__name__} has no layers that can be spread over processes.",
            fix="Train it with one process.",
            code="unsupported_model",
        )
    if device.type == "cuda":
        recompute_activations(solo.model)
        solo.recompute = True  # one rank alone must never change course: the others would wait for it
    for layer in layers:
        fully_shard(layer)
    roof = Rooted(solo.decoder, solo.head)
    sharded = fully_shard(roof, reshard_after_forward=False)
    solo.decoder, solo.device = roof, device
    return sharded


def outermost(module: nn.Module) -> list[nn.Module]:
    """Decoder layers: what transformers would recompute as one, not counting what is inside of another."""
    found: list[nn.Module] = []
    for child in module.children():
        found += [child] if isinstance(child, GradientCheckpointingLayer) else outermost(child)
    return found


def held_bytes(model: nn.Module) -> int:
    """Bytes of frozen parameters that this process holds."""
    kept = (p.to_local() if isinstance(p, DTensor) else p for p in model.parameters() if not p.requires_grad)
    return sum(part.numel() * part.element_size() for part in kept)


def empty(sums: Sums) -> Sums:
    """Nothing, under the same names."""
    return Sums(extra=dict.fromkeys(sums.extra, 0.0), by_example=sums.by_example)
