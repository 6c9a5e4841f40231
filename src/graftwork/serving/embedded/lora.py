"""Many adapters in one batch: after each frozen product, every token gets the product of its own adapter.

The halves of all adapters in the batch stand side by side: one product with the joined ``down`` [in, R]
gives every token the inner values of every adapter; those that are not its own are set to zero (not
multiplied by it: infinity times zero is NaN); one product with the joined ``up`` [R, out] adds what is
left. Two products whatever the number of adapters, their ranks and their targets, and a token of the
base model gets exactly zero added. The idea of batching different adapters over one base is Punica's and
S-LoRA's (Chen et al. 2023, arXiv:2310.18547; Sheng et al. 2023, arXiv:2311.03285); the joined form is
chosen here because ranks are small and calls, not sums, are what costs.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from graftwork.serving.embedded.adapters import Adapter, LinearShape, StackedPair

Layout = tuple[tuple[int, int], ...]
"""Which adapter (by its place in the mix) owns how many columns, in order."""


@dataclass(frozen=True, slots=True)
class Joined:
    """All adapters' halves at one linear module."""

    down: torch.Tensor
    """[in, R]."""
    up: torch.Tensor
    """[R, out]."""
    layout: Layout


class Mix:
    """A set of adapters, joined. Built when the set changes, kept while the batch uses no other."""

    def __init__(self, adapters: Sequence[Adapter]) -> None:
        self.adapters = tuple(adapters)
        self._place = {adapter: index for index, adapter in enumerate(self.adapters)}
        paths = dict.fromkeys(path for adapter in self.adapters for path in adapter.pairs)
        self.joined = {path: self._join(path) for path in paths}

    def _join(self, path: str) -> Joined:
        pairs = [(i, a.pairs[path]) for i, a in enumerate(self.adapters) if path in a.pairs]
        return Joined(
            torch.cat([pair.down for _, pair in pairs], dim=1),
            torch.cat([pair.up for _, pair in pairs], dim=0),
            tuple((index, pair.rank) for index, pair in pairs),
        )

    def serves(self, wanted: set[Adapter]) -> bool:
        """Whether this mix may be used for a batch of ``wanted``: it has them all and not too many others."""
        return wanted <= set(self.adapters) and len(self.adapters) <= max(4, 2 * len(wanted))

    def owners(self, tokens: Sequence[Adapter | None]) -> list[int]:
        """Each token's adapter by its place in the mix; -1 for the base."""
        return [-1 if adapter is None else self._place[adapter] for adapter in tokens]


class Mixer:
    """What the wrapped linears read: the mix and the owner of each token of the iteration now computed."""

    def __init__(self) -> None:
        self.mix = Mix(())
        self._owners: torch.Tensor | None = None
        self._single: int | None = None
        self._foreign: dict[Layout, torch.Tensor | None] = {}
        self._wanted: list[tuple[int, Adapter]] = []

    def begin(self, tokens: Sequence[Adapter | None], device: torch.device) -> None:
        """Prepare for an iteration whose T tokens belong to these adapters (None: the base)."""
        wanted = {adapter for adapter in tokens if adapter is not None}
        self.end()
        if not wanted:
            return
        if not self.mix.serves(wanted):
            self.mix = Mix(sorted(wanted, key=lambda adapter: adapter.name))
        places = self.mix.owners(tokens)
        self._wanted = [(place, a) for place, a in enumerate(self.mix.adapters) if a in wanted]
        self._single = places[0] if len(set(places)) == 1 else None
        self._owners = torch.tensor(places, device=device)

    def end(self) -> None:
        """Forget the iteration."""
        self._owners = None
        self._foreign = {}
        self._wanted = []

    def forget(self, loaded: set[Adapter]) -> None:
        """Drop the mix when it holds adapters that are neither loaded nor running any more."""
        if not set(self.mix.adapters) <= loaded:
            self.mix = Mix(())

    def joined(self, path: str) -> Joined | None:
        """What to add at a module in this iteration; None when nothing."""
        return self.mix.joined.get(path) if self._owners is not None else None

    def stacked(self, target: str, tokens: torch.Tensor) -> Iterator[tuple[StackedPair, torch.Tensor | None]]:
        """Halves at a stack of experts of each adapter now in the batch, and which of ``tokens`` are its own.

        These are not joined: an adapter's stacks are large, and each token needs those of few experts.

        Args:
            tokens: [n], tokens of the row, in any order and any number.

        Yields:
            The halves, and the places in ``tokens`` of those of this adapter; None for all of them.
        """
        changing = [(place, a.stacks[target]) for place, a in self._wanted if target in a.stacks]
        if not changing:
            return
        assert self._owners is not None, "only asked for within an iteration"
        if self._single is not None:
            yield changing[0][1], None
            return
        owners = self._owners[tokens]
        for place, pair in changing:
            yield pair, (owners == place).nonzero()[:, 0]

    def foreign(self, layout: Layout) -> torch.Tensor | None:
        """[T, R]: True where a column is not of the token's own adapter; None when all are."""
        if layout not in self._foreign:
            self._foreign[layout] = self._compute_foreign(layout)
        return self._foreign[layout]

    def _compute_foreign(self, layout: Layout) -> torch.Tensor | None:
        assert self._owners is not None, "only asked for within an iteration"
        if len(layout) == 1 and layout[0][0] == self._single:
            return None
        columns = [place for place, rank in layout for _ in range(rank)]
        return self._owners[:, None] != torch.tensor(columns, device=self._owners.device)


class MixedLinear(nn.Module):
    """A frozen linear module, and the adapters' part for the tokens of the iteration."""

    def __init__(self, frozen: nn.Linear, path: str, mixer: Mixer) -> None:
        super().__init__()
        self.frozen = frozen
        self._path = path
        self._mixer = mixer

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """[1, T, in] to [1, T, out], or without the first dimension."""
        out = self.frozen(inputs)
        joined = self._mixer.joined(self._path)
        if joined is None:
            return out
        inner = inputs.flatten(0, -2) @ joined.down
        foreign = self._mixer.foreign(joined.layout)
        if foreign is not None:
            inner.masked_fill_(foreign, 0)
        out.view(len(inner), -1).addmm_(inner, joined.up)
        return out


def wrap_linears(model: nn.Module, mixer: Mixer, below: str) -> dict[str, LinearShape]:
    """Wrap every ``nn.Linear`` under the module path ``below``. Returns their shapes by path."""
    shapes: dict[str, LinearShape] = {}
    found = [
        (path, module)
        for path, module in model.named_modules()
        if isinstance(module, nn.Linear) and path.startswith(below + ".")
    ]
    for path, module in found:
        parent, _, child = path.rpartition(".")
        model.get_submodule(parent).register_module(child, MixedLinear(module, path, mixer))
        shapes[path] = LinearShape(module.in_features, module.out_features)
    return shapes
