"""Adapters of one shape side by side: each is a row of one table, so a step can multiply them all at once.

A row holds, group of modules by group, the A matrices that read the same input directly behind one another
(query, key and value share one product) and then the B matrices.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate

import torch
from torch import nn

from graftwork.core.specs import LoraSpec
from graftwork.training.engine import Adapter, Part
from graftwork.training.lora import PREFIX
from graftwork.training.packed.experts import ExpertLora, Stack
from graftwork.training.targets import Targets, expert_spread

ALIGN = 16
"""Blocks begin at multiples of this many numbers, a cache line: products may round otherwise off the line."""
MOST_VIEWS = 1 << 14
"""Views of a table that are remembered: neighbours come and go, and a trainer may live for weeks."""
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
    table: torch.Tensor
    """int64, the same as ``lowrank.c`` reads it: where B begins, outputs, and the first column."""


class Plan:
    """The shape of an adapter: which numbers of its vector are whose. Shared by all adapters of a bank.

    Args:
        groups, stacks: of the model, in its order.
        targets: what to adapt.
        rank: of every linear module.
    """

    def __init__(
        self, groups: Sequence[Group], targets: Targets, rank: int, stacks: Sequence[Stack] = ()
    ) -> None:
        self.rank, self.targets = rank, targets
        self._linears = frozenset(targets.linears)
        self.pairs: dict[str, Pair] = {}
        self.parts: list[Part] = []
        at = 0
        for group in groups:
            at = self._place(group, _aligned(at))
        for stack in stacks:
            if targets.expert_rank is not None and stack.name in targets.stacks:
                at = self._place_stack(stack, targets.expert_rank, at)
        self.size = _aligned(at)

    def _place_stack(self, stack: Stack, rank: int, at: int) -> int:
        for name, shape in stack.parts(rank):
            at = _aligned(at)
            self.parts.append(Part(f"{PREFIX}{name}", at, shape))
            at += math.prod(shape)
        return at

    def _place(self, group: Group, at: int) -> int:
        edges = list(accumulate((site.fan_out for site in group.sites), initial=0))
        chosen = [
            (site, slice(edges[n], edges[n + 1]))
            for n, site in enumerate(group.sites)
            if site.name in self._linears
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
        table = torch.tensor([(where.start, out, columns.start) for where, out, columns in members])
        self.pairs[group.key] = Pair(shared, fan_in, tuple(members), table)
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
        self._views: dict[tuple[str, int, int], Matrices | None] = {}

    def matrices(self, key: str, slots: slice) -> Matrices | None:
        """The matrices of a group for some rows, and their gradients; None: the plan does not adapt it."""
        at = (key, slots.start, slots.stop)
        if at not in self._views:
            if len(self._views) >= MOST_VIEWS:
                self._views.clear()
            pair = self.plan.pairs.get(key)
            self._views[at] = None if pair is None else self._view(pair, slots)
        return self._views[at]

    def adapts(self, key: str) -> bool:
        """Whether the plan adapts a module of this group."""
        return key in self.plan.pairs

    def _view(self, pair: Pair, slots: slice) -> Matrices:
        rank = self.plan.rank

        def blocks(table: torch.Tensor) -> tuple[torch.Tensor, tuple[torch.Tensor, ...]]:
            rows = table[slots]
            return rows[:, pair.a].unflatten(1, (-1, pair.fan_in)), tuple(
                rows[:, where].unflatten(1, (out, rank)) for where, out, _ in pair.members
            )

        columns = tuple(columns for _, _, columns in pair.members)
        whole = (self.weights[slots], self.grads[slots])
        return Matrices(*blocks(self.weights), *blocks(self.grads), columns, pair, *whole)


@dataclass(frozen=True, slots=True)
class Matrices:
    """Views of some rows of a bank for one group."""

    a: torch.Tensor
    """[rows, rank × members, in]."""
    b: tuple[torch.Tensor, ...]
    """For each member [rows, out, rank]."""
    da: torch.Tensor
    db: tuple[torch.Tensor, ...]
    columns: tuple[slice, ...]
    """For each member: its columns in the group's output."""
    pair: Pair
    weights: torch.Tensor
    """The rows whole: [rows, size]."""
    grads: torch.Tensor


@dataclass(frozen=True, slots=True, eq=False)
class Tenant:
    """An adapter and its place."""

    adapter: Adapter
    bank: Bank
    slot: int
    scale: float
    dropout: float
    experts: Mapping[str, ExpertLora] = field(default_factory=dict[str, ExpertLora])
    """Its matrices on stacked experts, by the module's name."""


class Banks:
    """All adapters of an engine."""

    def __init__(self, groups: Sequence[Group], device: torch.device, stacks: Sequence[Stack] = ()) -> None:
        self._groups, self._device, self._stacks = groups, device, stacks
        self._banks: dict[tuple[int, Targets], list[Bank]] = {}
        self._order = {site.name: n for n, site in enumerate(s for group in groups for s in group.sites)}

    def add(self, name: str, lora: LoraSpec, targets: Targets, seed: int) -> Tenant:
        """A fresh adapter: A uniform as in PEFT, drawn on the CPU module by module; B zero."""
        bank = self._room(lora.rank, targets)
        slot = bank.free.pop(0)
        weights, grad = bank.weights[slot], bank.grads[slot]
        weights.zero_()
        grad.zero_()
        adapter = Adapter(
            name,
            weights,
            grad,
            tuple(bank.plan.parts),
            targets.modules,
            targets.parameters,
            targets.expert_rank,
        )
        wider = {f"{PREFIX}{stack.name}" for stack in self._stacks}
        generator = torch.Generator().manual_seed(seed)
        for part_name, view in adapter.tensors().items():
            if part_name.endswith(".lora_A.weight"):
                drawn = torch.empty(view.shape)
                nn.init.kaiming_uniform_(drawn, a=math.sqrt(5), generator=generator)
                stem = part_name.removesuffix(".lora_A.weight").removesuffix(".base_layer")
                if targets.expert_rank is not None and stem in wider:
                    drawn *= expert_spread(lora, targets.expert_rank)
                view.copy_(drawn)
        scale = lora.alpha / (math.sqrt(lora.rank) if lora.rslora else lora.rank)
        found = {stack.name: stack.lora(adapter, PREFIX, scale) for stack in self._stacks}
        experts = {name: lora for name, lora in found.items() if lora is not None}
        return Tenant(adapter, bank, slot, scale, lora.dropout, experts)

    def remove(self, tenant: Tenant) -> None:
        """Free the row, and the table with its last row."""
        bank = tenant.bank
        bank.free = sorted([*bank.free, tenant.slot])
        if len(bank.free) == bank.rows:
            self._banks[(bank.plan.rank, bank.plan.targets)].remove(bank)

    def _room(self, rank: int, targets: Targets) -> Bank:
        banks = self._banks.setdefault((rank, targets), [])
        for bank in banks:
            if bank.free:
                return bank
        plan = banks[0].plan if banks else Plan(self._groups, targets, rank, self._stacks)
        banks.append(Bank(plan, self._device, self._rows(plan, sum(bank.rows for bank in banks))))
        return banks[-1]

    def _rows(self, plan: Plan, present: int) -> int:
        """Rows of the next table. A GPU's memory is taken at once, so there the tables grow by doubling."""
        if self._device.type == "cpu":
            return max(1, min(64, BLOCK_BYTES // (4 * plan.size)))
        return max(1, min(64, present))


def _aligned(at: int) -> int:
    return -(-at // ALIGN) * ALIGN
