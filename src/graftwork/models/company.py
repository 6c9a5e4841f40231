"""Which runs should train together on one machine, and which had better not. Pure: no clock, no database.

Runs on one frozen base share a step: its launches and its weights are paid once for all of them. How much
that saves follows from a model of a step's time (``step_seconds``): a fixed cost for launching a layer's
operations, reading the weights that the step's tokens touch, and the arithmetic. The gain is large where a
step is bound by the first two (small models, short rows, mixtures of experts, whose every touched expert is
read once for all) and vanishes where one run fills the machine; then company saves nothing but the memory of
a second base.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Literal

from graftwork.core.specs import RunSpec
from graftwork.models.entry import Shape

Device = Literal["cpu", "gpu"]

PAYS = 1.25
"""Gain from which company is worth more than a machine of one's own: that much fewer machine seconds."""
NO_LOSS = 1.02
"""Gain from which company is better than to wait until the other has ended."""

_WIDTH = {"float32": 4, "bfloat16": 2, "float16": 2}
_LAUNCH = {"cpu": 0.008, "gpu": 40 * 6e-6}
"""Seconds a layer and step that no token's work can hide: small operations on a CPU (measured, see
``planning``); some forty kernels of 6 µs, forward and backward, on a GPU."""
_RATE = {"cpu": 25e9, "gpu": 0.6 * 989e12}
"""Useful operations a second: of one CPU core in fp32; of one H100 in bf16 at 60 %."""
_BANDWIDTH = {"cpu": 10e9, "gpu": 3.35e12}
"""Bytes a second that weights are read with, by the public peaks."""


@dataclass(frozen=True, slots=True)
class Host:
    """What a machine has."""

    device: Device = "cpu"
    memory: int = 0
    """Bytes that training may fill; 0 is unknown, and then nobody is refused for it."""
    cores: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """A run as its company sees it."""

    key: str
    kind: Hashable
    """Of ``kind_of``: only runs of one kind share a trainer."""
    shape: Shape
    tokens: int
    """Of a mean micro-batch."""
    adapter: int
    """Bytes of the adapter, its gradient and its optimizer: there for as long as the run is."""
    working: int
    """Bytes of the activations and logits of one micro-batch: runs may take turns with them."""
    resident: int
    """Bytes of base model and process: once for all."""
    widest: int
    """Tokens of its largest micro-batch, which ``working`` is for."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether a run may come into a company, and why (not)."""

    ok: bool
    gain: float
    """Seconds of the steps one after another over the seconds of the step together; 1 if not asked."""
    why: str


@dataclass(frozen=True, slots=True)
class Group:
    """Runs to be trained together."""

    keys: tuple[str, ...]
    tokens_per_pass: int | None
    """What fits into memory at a time; None where the memory is unknown."""
    why: str


def why_alone(spec: RunSpec) -> str | None:
    """Why a run can have no company at all; None if it can."""
    if spec.trainer != "native":
        return f"the {spec.trainer} trainer trains one run at a time"
    if spec.lora.dora:
        return "DoRA needs column norms of the base with its own adapter"
    return None


def kind_of(spec: RunSpec) -> Hashable:
    """What runs must have in common to share a trainer: base, revision, quantization."""
    return (spec.base.repository, spec.base.revision, spec.quantization)


def together(members: Sequence[Member], host: Host, limit: int = 16) -> list[Group]:
    """Divide runs into groups that are to be trained together, in the order given.

    Each run goes into the first group of its kind that takes it (``may_join``), else begins one.

    Args:
        members: the runs, those first who should start first.
        host: the machine that each group would have to itself.
        limit: runs in a group.
    """
    groups: list[tuple[list[Member], str]] = []
    for member in members:
        for at, (there, _) in enumerate(groups):
            verdict = may_join(member, there, host, pays=PAYS, limit=limit)
            if verdict.ok:
                groups[at] = ([*there, member], verdict.why)
                break
        else:
            groups.append(([member], "it has the machine to itself"))
    return [
        Group(tuple(member.key for member in there), tokens_per_pass(there, host), why)
        for there, why in groups
    ]


def may_join(
    member: Member, there: Sequence[Member], host: Host, *, pays: float = PAYS, limit: int = 16
) -> Verdict:
    """Whether ``member`` may train together with those who are there.

    Args:
        member: the newcomer.
        there: the runs of one machine, at least one.
        host: that machine.
        pays: gain of the step from which it is worth it: ``PAYS`` against a machine of one's own,
            ``NO_LOSS`` against waiting.
        limit: runs on a machine.
    """
    if any(other.kind != member.kind for other in there):
        return Verdict(False, 1.0, "it has another base model, revision or quantization")
    if len(there) >= limit:
        return Verdict(False, 1.0, f"{len(there)} runs are on the machine already")
    everybody = [*there, member]
    if host.memory and memory(everybody) > host.memory:
        return Verdict(False, 1.0, f"the memory does not suffice for {len(everybody)} runs")
    gain = gain_of(everybody, host)
    if gain < pays:
        return Verdict(False, gain, f"a step together would be only {gain:.2f} times as fast")
    return Verdict(True, gain, f"a step together is {gain:.1f} times as fast as one after another")


def memory(members: Sequence[Member]) -> int:
    """Bytes that runs need together at least: one base, everybody's adapter, one micro-batch at a time."""
    resident = max(member.resident for member in members)
    return resident + sum(m.adapter for m in members) + max(m.working for m in members)


def tokens_per_pass(members: Sequence[Member], host: Host) -> int | None:
    """Tokens of all runs that fit into one pass; at least the largest micro-batch. None: not known."""
    if not host.memory:
        return None
    fixed = max(member.resident for member in members) + sum(member.adapter for member in members)
    each = max(member.working / max(member.widest, 1) for member in members)
    widest = max(member.widest for member in members)
    return max(widest, int((host.memory - fixed) / each)) if each else None


def gain_of(members: Sequence[Member], host: Host) -> float:
    """Seconds of a step of each run, one after another, over those of one step of all, as memory allows."""
    alone = sum(step_seconds(member.shape, member.tokens, host) for member in members)
    tokens = sum(member.tokens for member in members)
    fits = tokens_per_pass(members, host) or tokens
    passes = -(-tokens // max(fits, 1))
    company = passes * step_seconds(members[0].shape, tokens / passes, host)
    return alone / company


def step_seconds(shape: Shape, tokens: float, host: Host) -> float:
    """A model of the time of one forward and backward pass of ``tokens`` tokens; not a measurement.

    Launches of all layers, and the longer of reading the weights that are touched (twice) and of the
    arithmetic (two operations a weight and token forward, two backward). Of E experts, k at a time, a batch
    of n tokens touches E(1 - (1 - k/E)^n).
    """
    width = 4 if host.device == "cpu" else _WIDTH.get(shape.dtype, 2)
    rate = _RATE[host.device] * (host.cores if host.device == "cpu" else 1)
    routed = shape.block_parameters - shape.active_parameters
    if shape.experts and shape.active_experts and routed > 0:
        one = routed / (shape.experts - shape.active_experts)
        met = shape.experts * (1 - (1 - shape.active_experts / shape.experts) ** tokens)
        read = shape.active_parameters + one * max(0.0, met - shape.active_experts)
    else:
        read = float(shape.block_parameters)
    reading = 2 * read * width / _BANDWIDTH[host.device]
    working = 4 * shape.active_parameters * tokens / rate
    return shape.layers * _LAUNCH[host.device] + max(reading, working)
