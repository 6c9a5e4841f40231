"""LoRA on the stacked experts of a mixture, for the rows of many adapters at once.

Split LoRA: ``x W + (x A) B`` per token, never ``W + A B`` for a stack of experts. Token-expert pairs are
sorted once by (expert, span); the frozen products then run over experts and the low-rank ones over (expert,
span), each as one grouped matrix product. Gradients go to the tokens, to the routing weights (the router is
frozen, what it is given is not) and into the adapters' own buffers, to nothing else.

Parameters lie as PEFT's ``target_parameters`` has them, so an adapter is saved as it is trained.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from graftwork.training.engine import Adapter
from graftwork.training.nf4 import held
from graftwork.training.packed.matmul import ALIGNED, ragged, ragged_outer


@dataclass(frozen=True, slots=True, eq=False)
class LowRank:
    """One adapter's pair on one stacked parameter, as views of its flat buffers.

    ``a`` [experts * rank, inputs], expert by expert; ``b`` [outputs, rank * experts], the expert running
    fastest: PEFT's layout. ``a_grad`` and ``b_grad`` likewise.
    """

    a: Tensor
    b: Tensor
    a_grad: Tensor
    b_grad: Tensor

    def stacked(self, experts: int) -> tuple[Tensor, Tensor]:
        """Views [experts, rank, inputs] and [experts, rank, outputs] of the weights."""
        return _by_expert(self.a, self.b, experts)

    def add_grads(self, a: Tensor, b: Tensor) -> None:
        """Add gradients of the two views of ``stacked``."""
        a_view, b_view = _by_expert(self.a_grad, self.b_grad, len(a))
        a_view += a
        b_view += b


@dataclass(frozen=True, slots=True, eq=False)
class ExpertLora:
    """One adapter on one module of experts; a parameter it does not adapt is None."""

    gate_up: LowRank | None
    down: LowRank | None
    rank: int
    scale: float


@dataclass(frozen=True, slots=True)
class Stretch:
    """Neighbouring tokens of one adapter; ``lora`` None: the base model alone."""

    tokens: int
    lora: ExpertLora | None


@dataclass(frozen=True, slots=True)
class Stack:
    """One module of experts that adapters may target."""

    name: str
    """Full name in the model."""
    experts: int
    hidden: int
    inner: int

    def parts(self, rank: int) -> list[tuple[str, tuple[int, ...]]]:
        """PEFT's names (without its prefix) and shapes of an adapter's four tensors here.

        PEFT wraps a module once per parameter: the wrapper of ``down_proj`` is outermost, that of
        ``gate_up_proj`` lies under its ``base_layer``.
        """
        many = self.experts * rank
        return [
            (f"{self.name}.base_layer.lora_A.weight", (many, self.hidden)),
            (f"{self.name}.base_layer.lora_B.weight", (2 * self.inner, many)),
            (f"{self.name}.lora_A.weight", (many, self.inner)),
            (f"{self.name}.lora_B.weight", (self.hidden, many)),
        ]

    def lora(self, adapter: Adapter, prefix: str, scale: float) -> ExpertLora | None:
        """An adapter's matrices here; None if it has none."""
        if adapter.expert_rank is None:
            return None
        weights, grads = adapter.tensors(), adapter.tensors(adapter.grad)
        a, b, c, d = (f"{prefix}{name}" for name, _ in self.parts(adapter.expert_rank))
        gate_up = LowRank(weights[a], weights[b], grads[a], grads[b])
        down = LowRank(weights[c], weights[d], grads[c], grads[d])
        return ExpertLora(gate_up, down, adapter.expert_rank, scale)


@dataclass(frozen=True, slots=True, eq=False)
class Frozen:
    """The base model's experts. The stacks are looked at, never kept: in 4 bits each look unpacks one."""

    module: Any
    sizes: tuple[int, int, int]
    """Experts, hidden, inner."""
    biases: tuple[Tensor, Tensor] | None
    """[experts, outputs] of both stacks."""
    gate: Callable[[Tensor], Tensor]
    """[pairs, 2 * inner] to [pairs, inner]: the model's gated activation."""

    @property
    def first(self) -> Tensor:
        """[experts, hidden, 2 * inner]: a view in that order, whatever the model's own."""
        return self._stack(self.module.gate_up_proj)

    @property
    def second(self) -> Tensor:
        """[experts, inner, hidden], likewise."""
        return self._stack(self.module.down_proj)

    @classmethod
    def of(cls, module: Any) -> Frozen:
        """From a module of transformers (``use_experts_implementation`` says how it lies)."""
        packed = held(module, "down_proj")
        experts, *sides = packed.shape if packed else module.down_proj.shape
        inner, hidden = sides if module.is_transposed else reversed(sides)
        has = module.has_bias
        biases = (module.gate_up_proj_bias.detach(), module.down_proj_bias.detach()) if has else None
        return cls(module, (experts, hidden, inner), biases, module._apply_gate)

    def _stack(self, stack: Tensor) -> Tensor:
        return stack.detach() if self.module.is_transposed else stack.detach().transpose(1, 2)


def split_experts(
    x: Tensor,
    weights: Tensor,
    chosen: Tensor,
    frozen: Frozen,
    stretches: Sequence[Stretch],
    anchor: Tensor | None = None,
) -> Tensor:
    """The mixture's output [tokens, hidden] for ``x`` [tokens, hidden].

    Args:
        weights: routing weights [tokens, k].
        chosen: int64 [tokens, k], the experts of each token.
        stretches: cover the tokens in order.
        anchor: wants a gradient where the adapters do and ``x`` does not.
    """
    return _SplitExperts.apply(x, weights, chosen, frozen, tuple(stretches), anchor)


@dataclass(frozen=True, slots=True, eq=False)
class _Bank:
    """The low-rank weights of stretches of like rank on one parameter, a group for each (expert, stretch)."""

    a: Tensor
    """[groups, inputs, rank]: a view."""
    b: Tensor
    """[groups, rank, outputs], times the adapter's scale."""


@dataclass(frozen=True, slots=True, eq=False)
class _Class:
    """Stretches whose rank is padded to the same width: one grouped product serves them all."""

    members: tuple[ExpertLora, ...]
    rows: Tensor | None
    """Which sorted pairs are theirs; None: all."""
    offsets: Tensor
    """int32 [experts * members]: ends of the groups among these pairs."""
    experts: int
    width: int

    def take(self, pairs: Tensor) -> Tensor:
        return pairs if self.rows is None else pairs.index_select(0, self.rows)

    def add(self, total: Tensor, pairs: Tensor) -> None:
        if self.rows is None:
            total += pairs
        else:
            total.index_add_(0, self.rows, pairs)

    def bank(self, which: str, dtype: torch.dtype) -> _Bank | None:
        """Stack the members' weights, padded with zeros to ``width``; None if no member adapts it."""
        pairs = [member.gate_up if which == "gate_up" else member.down for member in self.members]
        shapes = next((pair.stacked(self.experts) for pair in pairs if pair is not None), None)
        if shapes is None:
            return None
        sides = [side.shape[2] for side in shapes]
        shape = (self.experts, len(pairs), self.width)
        a = torch.zeros(*shape, sides[0], dtype=dtype, device=shapes[0].device)
        b = torch.zeros(*shape, sides[1], dtype=dtype, device=shapes[0].device)
        for index, (pair, member) in enumerate(zip(pairs, self.members, strict=True)):
            if pair is not None:
                a_view, b_view = pair.stacked(self.experts)
                a[:, index, : member.rank] = a_view
                b[:, index, : member.rank] = b_view * member.scale
        return _Bank(a.flatten(0, 1).transpose(1, 2), b.flatten(0, 1))

    def keep(self, which: str, a: Tensor, b: Tensor) -> None:
        """Add gradients [groups, rank, inputs] and [groups, rank, outputs] (of the scaled B) to the
        members."""
        a, b = (grad.unflatten(0, (self.experts, len(self.members))) for grad in (a, b))
        for index, member in enumerate(self.members):
            pair = member.gate_up if which == "gate_up" else member.down
            if pair is not None:
                pair.add_grads(a[:, index, : member.rank], b[:, index, : member.rank] * member.scale)


@dataclass(frozen=True, slots=True, eq=False)
class _Order:
    """Token-expert pairs sorted by (expert, stretch)."""

    pairs: Tensor
    """int64 [tokens * k]: the pair in each sorted place."""
    tokens: Tensor
    """int64: its token."""
    experts: Tensor
    """int64: its expert."""
    offsets: Tensor
    """int32 [experts]: ends of the experts' groups."""
    classes: tuple[_Class, ...]


def _order(chosen: Tensor, stretches: tuple[Stretch, ...], experts: int, dtype: torch.dtype) -> _Order:
    flat = chosen.reshape(-1)
    pairs = torch.sort(flat, stable=True).indices  # tokens come span by span, and the sort keeps that
    tokens = pairs // chosen.shape[1]
    lengths = torch.tensor([stretch.tokens for stretch in stretches], device=chosen.device)
    spans = torch.repeat_interleave(torch.arange(len(stretches), device=chosen.device), lengths)[tokens]
    sorted_experts = flat[pairs]
    counts = torch.bincount(sorted_experts * len(stretches) + spans, minlength=experts * len(stretches))
    counts = counts.view(experts, len(stretches))
    widths: dict[int, list[int]] = {}
    for index, stretch in enumerate(stretches):
        if stretch.lora is not None:
            widths.setdefault(_padded(stretch.lora.rank, dtype), []).append(index)
    classes: list[_Class] = []
    for width, members in sorted(widths.items()):
        mine = torch.tensor(members, device=chosen.device)
        whole = len(members) == len(stretches)
        classes.append(
            _Class(
                tuple(lora for index in members if (lora := stretches[index].lora) is not None),
                None if whole else torch.isin(spans, mine).nonzero().flatten(),
                counts[:, mine].flatten().cumsum(0).to(torch.int32),
                experts,
                width,
            )
        )
    return _Order(pairs, tokens, sorted_experts, counts.sum(1).cumsum(0).to(torch.int32), tuple(classes))


def _padded(rank: int, dtype: torch.dtype) -> int:
    """The next power of two that grouped_mm takes: like ranks share a product, and padding stays small."""
    return max(ALIGNED // dtype.itemsize, 1 << math.ceil(math.log2(rank)))


class _SplitExperts(torch.autograd.Function):
    """See ``split_experts``. Backward adds the adapters' gradients to their buffers itself."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weights: Tensor,
        chosen: Tensor,
        frozen: Frozen,
        stretches: tuple[Stretch, ...],
        anchor: Tensor | None,
    ) -> Tensor:
        order = _order(chosen, stretches, frozen.sizes[0], x.dtype)
        xs = x.index_select(0, order.tokens)
        wide, narrow_in = _product(xs, frozen.first, order, "gate_up")
        if frozen.biases is not None:
            wide += frozen.biases[0].index_select(0, order.experts)
        gated = frozen.gate(wide)
        out, narrow_out = _product(gated, frozen.second, order, "down")
        if frozen.biases is not None:
            out += frozen.biases[1].index_select(0, order.experts)
        out *= weights.reshape(-1)[order.pairs, None]
        ctx.frozen, ctx.order, ctx.narrow = frozen, order, (narrow_in, narrow_out)
        ctx.save_for_backward(x, weights, wide)
        return _gather(out, order, weights.shape)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, weights, wide = ctx.saved_tensors
        frozen: Frozen = ctx.frozen
        order: _Order = ctx.order
        slope = grads[0].index_select(0, order.tokens)
        share = weights.reshape(-1)[order.pairs, None]
        with torch.enable_grad():
            leaf = wide.detach().requires_grad_()
            gated = frozen.gate(leaf)
        # by the unweighted slope first: the derivative to a routing weight falls out of it
        to_gated = _back(slope, gated.detach(), frozen.second, order, "down", ctx.narrow[1], share)
        to_share = (to_gated * gated.detach()).sum(1)
        if frozen.biases is not None:
            to_share += (slope * frozen.biases[1].index_select(0, order.experts)).sum(1)
        (to_wide,) = torch.autograd.grad(gated, leaf, to_gated * share)
        xs = x.index_select(0, order.tokens)
        to_x = _back(to_wide, xs, frozen.first, order, "gate_up", ctx.narrow[0], None)
        to_weights = torch.empty_like(to_share)
        to_weights[order.pairs] = to_share
        return _gather(to_x, order, weights.shape), to_weights.view_as(weights), None, None, None, None


def _product(inputs: Tensor, frozen: Tensor, order: _Order, which: str) -> tuple[Tensor, list[Tensor | None]]:
    """Sorted pairs through the frozen stack and the adapters; also the narrow products, for backward."""
    out = ragged(inputs, frozen, order.offsets)
    narrow: list[Tensor | None] = []
    for group in order.classes:
        bank = group.bank(which, inputs.dtype)
        if bank is None:
            narrow.append(None)
            continue
        low = ragged(group.take(inputs), bank.a, group.offsets)
        group.add(out, ragged(low, bank.b, group.offsets))
        narrow.append(low)
    return out, narrow


def _back(
    slope: Tensor,
    inputs: Tensor,
    frozen: Tensor,
    order: _Order,
    which: str,
    narrow: list[Tensor | None],
    share: Tensor | None,
) -> Tensor:
    """Derivative to ``inputs`` of what ``_product`` gave, by ``slope``; adapters get theirs, times
    ``share``."""
    out = ragged(slope, frozen.transpose(1, 2), order.offsets)
    for group, low in zip(order.classes, narrow, strict=True):
        bank = group.bank(which, inputs.dtype)
        if bank is None or low is None:
            continue
        mine = group.take(slope)
        to_low = ragged(mine, bank.b.transpose(1, 2), group.offsets)
        group.add(out, ragged(to_low, bank.a.transpose(1, 2), group.offsets))
        if share is not None:
            weight = group.take(share)
            low, to_low = low * weight, to_low * weight
        group.keep(
            which,
            ragged_outer(to_low, group.take(inputs), group.offsets),
            ragged_outer(low, mine, group.offsets),
        )
    return out


def _gather(sorted_pairs: Tensor, order: _Order, shape: torch.Size) -> Tensor:
    """Sum each token's pairs, in the order of its choices: the same sum whatever the neighbours."""
    back = torch.empty_like(order.pairs)
    back[order.pairs] = torch.arange(len(back), device=back.device)
    return sorted_pairs.index_select(0, back).view(*shape, -1).sum(1)


def _by_expert(a: Tensor, b: Tensor, experts: int) -> tuple[Tensor, Tensor]:
    return a.view(experts, -1, a.shape[1]), b.view(b.shape[0], -1, experts).permute(2, 1, 0)
