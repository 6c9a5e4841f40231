"""Which runs should train together on one machine, and which had better not. Pure: no clock, no database.

Runs on one frozen base share a step: its launches and its weights are paid once for all of them
(``models.steptime``). The gain is large where a step is bound by those (small models, short rows, mixtures of
experts, whose every touched expert is read once for all) and vanishes where one run fills the machine; then
company saves nothing but the memory of a second base.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

from graftwork.core.specs import Quantization, RunSpec
from graftwork.models.entry import Shape
from graftwork.models.memory import Load
from graftwork.models.steptime import Hardware, step_seconds

PAYS = 1.25
"""Gain from which company is worth more than a machine of one's own: that much fewer machine seconds."""
NO_LOSS = 1.02
"""Gain from which company is better than to wait until the other has ended."""


@dataclass(frozen=True, slots=True)
class Host:
    """A machine."""

    hardware: Hardware
    memory: int = 0
    """Bytes that training may fill; 0 is unknown, and then nobody is refused for it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """A run as its company sees it."""

    key: str
    kind: Hashable
    """Of ``kind_of``: only runs of one kind share a trainer."""
    shape: Shape
    load: Load
    """Of a mean micro-batch."""
    quantization: Quantization = "none"
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
    return Verdict(True, gain, f"a step together is {gain:.2f} times as fast as one after another")


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
    alone = sum(_seconds([member], host) for member in members)
    limit = tokens_per_pass(members, host)
    passes: list[list[Member]] = []
    for member in members:
        held = sum(other.load.tokens for other in passes[-1]) if passes else 0
        if passes and (limit is None or held + member.load.tokens <= limit):
            passes[-1].append(member)
        else:
            passes.append([member])
    return alone / sum(_seconds(group, host) for group in passes)


def _seconds(members: Sequence[Member], host: Host) -> float:
    first = members[0]
    loads = [member.load for member in members]
    return step_seconds(first.shape, loads, host.hardware, quantization=first.quantization)
