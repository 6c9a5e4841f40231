"""Adapters of one shape side by side: each is a row of one table, so a step can multiply them all at once.

A row holds, group of modules by group, the A matrices that read the same input directly behind one another
(query, key and value share one product) and then the B matrices.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import nn

from graftwork.core.specs import LoraSpec
from graftwork.training.engine import Adapter, Part
from graftwork.training.lora import PREFIX

ALIGN = 16
"""Blocks begin at multiples of this many numbers, a cache line: products may round otherwise off the line."""
BLOCK_BYTES = 1 << 28
"""Address space reserved at once for a CPU's table; untouched rows take no memory."""


@dataclass(frozen=True, slots=True)
class Site:
    """One linear module that adapters may target."""

    name: str
    """Full name in the model, as PEFT has it."""
    fan_in: int
    fan_out: int

    @property
    def target(self) -> str:
        """The name's last word, as ``adapter_config.json`` lists it."""
        return self.name.rpartition(".")[2]


@dataclass(frozen=True, slots=True)
class Group:
    """Modules that read the same input, in the order in which their outputs lie side by side."""

    sites: tuple[Site, ...]

    @property
    def key(self) -> str:
        """The first module's name."""
        return self.sites[0].name


@dataclass(frozen=True, slots=True)
class Pair:
    """Where one group's matrices lie in a bank's row."""

    a: slice
    """All A matrices: [rank × members, in]."""
    fan_in: int
    members: tuple[tuple[slice, int, slice], ...]
    """For each adapted module: its B in the row, its outputs, and its columns of the group's output."""


class Plan:
    """The shape of an adapter: which numbers of its vector are whose. Shared by all adapters of a bank.

    Args:
        groups: of the model, in its order.
        targets: last names of the modules to adapt.
        rank: of every module.
    """

    def __init__(self, groups: Sequence[Group], targets: tuple[str, ...], rank: int) -> None:
        self.rank, self.targets = rank, targets
        self.pairs: dict[str, Pair] = {}
        self.parts: list[Part] = []
        at = 0
        for group in groups:
            at = self._place(group, _aligned(at))
        self.size = _aligned(at)

    def _place(self, group: Group, at: int) -> int:
        edges = list(accumulate((site.fan_out for site in group.sites), initial=0))
        chosen = [
            (site, slice(edges[n], edges[n + 1]))
            for n, site in enumerate(group.sites)
            if site.target in self.targets
        ]
        if not chosen:
            return at
        fan_in, start = group.sites[0].fan_in, at
        for site, _ in chosen:
            self.parts.append(Part(f"{PREFIX}{site.name}.lora_A.weight", at, (self.rank, fan_in)))
            at += self.rank * fan_in
        shared = slice(start, at)
        members: list[tuple[slice, int, slice]] = []
        for site, columns in chosen:
            at = _aligned(at)
            self.parts.append(Part(f"{PREFIX}{site.name}.lora_B.weight", at, (site.fan_out, self.rank)))
            end = at + site.fan_out * self.rank
            members.append((slice(at, end), site.fan_out, columns))
            at = end
        self.pairs[group.key] = Pair(shared, fan_in, tuple(members))
        return at


class Bank:
    """A table of adapters of one plan: fp32 [rows, size] of weights and the same of gradients.

    Rows never move, so an adapter's vector is a view for as long as it lives.
    """

    def __init__(self, plan: Plan, device: torch.device, rows: int) -> None:
        self.plan, self.rows = plan, rows
        self.weights = torch.zeros(rows, plan.size, device=device)
        self.grads = torch.zeros(rows, plan.size, device=device)
        self.free = list(range(rows))
        self._views: dict[tuple[str, bool], Matrices] = {}

    def matrices(self, key: str, slopes: bool = False) -> Matrices | None:
        """All adapters' matrices of a group, or their gradients; None: the plan does not adapt it."""
        pair = self.plan.pairs.get(key)
        if pair is None:
            return None
        found = self._views.get((key, slopes))
        if found is None:
            table, rank = self.grads if slopes else self.weights, self.plan.rank
            found = self._views[(key, slopes)] = Matrices(
                table[:, pair.a].unflatten(1, (-1, pair.fan_in)),
                tuple(
                    (table[:, where].unflatten(1, (out, rank)), columns)
                    for where, out, columns in pair.members
                ),
            )
        return found


@dataclass(frozen=True, slots=True)
class Matrices:
    """Views of a bank's table for one group."""

    a: torch.Tensor
    """[rows, rank × members, in]."""
    b: tuple[tuple[torch.Tensor, slice], ...]
    """For each member: [rows, out, rank] and its columns in the group's output."""


@dataclass(frozen=True, slots=True, eq=False)
class Tenant:
    """An adapter and its place."""

    adapter: Adapter
    bank: Bank
    slot: int
    scale: float
    dropout: float


class Banks:
    """All adapters of an engine."""

    def __init__(self, groups: Sequence[Group], device: torch.device) -> None:
        self._groups, self._device = groups, device
        self._banks: dict[tuple[int, tuple[str, ...]], list[Bank]] = {}
        self._order = {site.name: n for n, site in enumerate(s for group in groups for s in group.sites)}

    def add(self, name: str, lora: LoraSpec, targets: tuple[str, ...], seed: int) -> Tenant:
        """A fresh adapter: A uniform as in PEFT, drawn on the CPU module by module; B zero."""
        bank = self._room(lora.rank, targets)
        slot = bank.free.pop(0)
        weights, grad = bank.weights[slot], bank.grads[slot]
        weights.zero_()
        grad.zero_()
        adapter = Adapter(name, weights, grad, tuple(bank.plan.parts), targets)
        generator = torch.Generator().manual_seed(seed)
        for part_name, view in adapter.tensors().items():
            if part_name.endswith(".lora_A.weight"):
                drawn = torch.empty(view.shape)
                nn.init.kaiming_uniform_(drawn, a=math.sqrt(5), generator=generator)
                view.copy_(drawn)
        scale = lora.alpha / (math.sqrt(lora.rank) if lora.rslora else lora.rank)
        return Tenant(adapter, bank, slot, scale, lora.dropout)

    def remove(self, tenant: Tenant) -> None:
        """Free the row, and the table with its last row."""
        bank = tenant.bank
        bank.free = sorted([*bank.free, tenant.slot])
        if len(bank.free) == bank.rows:
            self._banks[(bank.plan.rank, bank.plan.targets)].remove(bank)

    def _room(self, rank: int, targets: tuple[str, ...]) -> Bank:
        banks = self._banks.setdefault((rank, targets), [])
        for bank in banks:
            if bank.free:
                return bank
        plan = banks[0].plan if banks else Plan(self._groups, targets, rank)
        banks.append(Bank(plan, self._device, self._rows(plan, sum(bank.rows for bank in banks))))
        return banks[-1]

    def _rows(self, plan: Plan, present: int) -> int:
        """Rows of the next table. A GPU's memory is taken at once, so there the tables grow by doubling."""
        if self._device.type == "cpu":
            return max(1, min(64, BLOCK_BYTES // (4 * plan.size)))
        return max(1, min(64, present))


def _aligned(at: int) -> int:
    return -(-at // ALIGN) * ALIGN
