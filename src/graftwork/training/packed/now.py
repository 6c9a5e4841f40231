"""The pass that is under way, where every patched module of an engine looks."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch

from graftwork.training.packed.cohort import Cohort, cohorts
from graftwork.training.packed.layout import Layout, labelled_spans
from graftwork.training.packed.where import NOWHERE, Where


@dataclass(frozen=True, slots=True)
class Pass:
    """What fused halves need of a pass; their backward passes keep it."""

    cohorts: tuple[Cohort, ...]
    labelled: tuple[Cohort, ...]
    """The same adapters on the axis of labelled tokens."""
    where: torch.Tensor
    rows: Where
    cos: torch.Tensor
    """[T, d]; so ``sin``."""
    sin: torch.Tensor


@dataclass(slots=True)
class Now:
    """One mutable holder for each engine."""

    layout: Layout | None = None
    cohorts: tuple[Cohort, ...] = ()
    rows: Where = NOWHERE
    anchor: torch.Tensor = field(default_factory=lambda: torch.zeros((), requires_grad=True))
    """Makes a layer's output want a gradient when its input, an embedding, does not."""
    _state: Pass | None = None

    def begin(self, layout: Layout) -> None:
        """A pass begins; it lasts until its backward pass is over."""
        self.layout, self._state = layout, None
        self.rows = Where(layout.lengths, layout.starts, layout.ids.device)
        self.cohorts = cohorts(layout.spans)

    def rest(self) -> None:
        """No pass is under way."""
        self.layout, self.cohorts, self.rows, self._state = None, (), NOWHERE, None

    def state(self, position_embeddings: tuple[torch.Tensor, torch.Tensor]) -> Pass:
        """The pass, with the rotary tables [1, T, d] that the model made for it."""
        layout = self.layout
        assert layout is not None
        if self._state is None:
            cos, sin = position_embeddings
            self._state = Pass(
                self.cohorts,
                cohorts(labelled_spans(layout)),
                layout.where,
                self.rows,
                cos[0].contiguous(),
                sin[0].contiguous(),
            )
        return self._state
