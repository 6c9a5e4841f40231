"""What is known of one base model: its shape, its LoRA rate, its prices, who trains and who serves it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from graftwork.core.specs import LoraSpec
from graftwork.models.shape import Shape

__all__ = ["CatalogueEntry", "Prices", "Shape", "Source"]

Source = Literal["builtin", "local", "hub"]


@dataclass(frozen=True, slots=True)
class Prices:
    """Micro-dollars per million tokens."""

    train: int
    input: int
    output: int


@dataclass(frozen=True, slots=True, kw_only=True)
class CatalogueEntry:
    """One base model of the catalogue.

    Attributes:
        name: what a customer sends as ``model``.
        source: where the files come from.
        repository: hub repository, absolute path of a folder, or ``seedling``.
        revision: commit or content hash; ``main`` for a hub model that is not pinned yet (see ``pin``).
        lora_learning_rate: peak rate of a LoRA at multiplier 1.
        lora: the default adapter.
        engines: engines that can serve it; trainers: trainers that can train it.
        chat: a word on its chat template; notes: what else one should know.
    """

    name: str
    source: Source
    repository: str
    revision: str
    shape: Shape
    licence: str
    lora_learning_rate: float
    rate_reason: str
    lora: LoraSpec
    prices: Prices
    engines: tuple[str, ...] = ("embedded",)
    trainers: tuple[str, ...] = ("native",)
    chat: str = ""
    notes: str = ""

    @property
    def family(self) -> str:
        """``model_type`` of its config."""
        return self.shape.family

    @property
    def parameters(self) -> int:
        """Number of weights."""
        return self.shape.parameters

    @property
    def hidden(self) -> int:
        """Width of the residual stream."""
        return self.shape.hidden

    @property
    def layers(self) -> int:
        """Number of layers."""
        return self.shape.layers

    @property
    def vocab(self) -> int:
        """Number of token ids."""
        return self.shape.vocab

    @property
    def context(self) -> int:
        """Longest sequence in tokens."""
        return self.shape.context

    @property
    def linear_modules(self) -> tuple[str, ...]:
        """Names of the linear modules ``all-linear`` stands for."""
        return tuple(dict.fromkeys(linear.name for linear in self.shape.linears))
