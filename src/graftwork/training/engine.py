"""The engine port: one frozen base model, adapters that come and go, and steps on them.

A session (one run) owns its data order, optimizer and schedule; the engine owns the base model and turns rows
into gradients. It is shaped for many adapters in one step: a call takes the work of several sessions, and
what a session gets back never depends on which others were in the call.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch

from graftwork.core.errors import TrainingError
from graftwork.core.specs import LoraSpec
from graftwork.data.rendering import Encoded

Rows = Sequence[Encoded]


@dataclass(frozen=True, slots=True)
class Sums:
    """What a pass over some rows added up to. Ratios are taken once, at the end, by tokens."""

    loss: float = 0.0
    """Sum of negative log-likelihoods (nats) over the labelled tokens, in fp32; of an objective of another
    kind, the sum of its losses over the examples."""
    tokens: int = 0
    """Labelled tokens."""
    correct: int = 0
    """Labelled tokens that were the model's first choice."""
    examples: int = 0
    """Examples: rows, or what an objective makes of them (two rows are one pair)."""
    extra: Mapping[str, float] = field(default_factory=dict)
    """Whatever else an objective measures, summed over the examples."""
    by_example: bool = False
    """The loss is one of examples, not of tokens."""

    def __add__(self, other: Sums) -> Sums:
        return Sums(
            self.loss + other.loss,
            self.tokens + other.tokens,
            self.correct + other.correct,
            self.examples + other.examples,
            {
                name: self.extra.get(name, 0.0) + other.extra.get(name, 0.0)
                for name in (*self.extra, *(name for name in other.extra if name not in self.extra))
            },
            self.by_example or other.by_example,
        )

    @property
    def mean_loss(self) -> float:
        """Loss per labelled token, or per example where it is one of examples; NaN of nothing."""
        count = self.examples if self.by_example else self.tokens
        return self.loss / count if count else float("nan")

    @property
    def accuracy(self) -> float:
        """Share of labelled tokens that were the first choice; NaN when nothing is labelled."""
        return self.correct / self.tokens if self.tokens else float("nan")


@dataclass(frozen=True, slots=True)
class Part:
    """Where one tensor of an adapter lies in its flat buffers."""

    name: str
    """PEFT's name: ``base_model.model.<module>.lora_A.weight``."""
    offset: int
    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Adapter:
    """One adapter in an engine: all its numbers in one fp32 vector, their gradients in another.

    Flat, so that clipping and AdamW are a few vector operations, and so that an adapter is a row when many
    of them are trained together.
    """

    name: str
    weights: torch.Tensor
    """fp32 [n]; the layers' parameters are views of it."""
    grad: torch.Tensor
    """fp32 [n]; filled by ``forward_backward``."""
    parts: tuple[Part, ...]
    targets: tuple[str, ...]
    """Names of the adapted linear modules, as ``adapter_config.json`` lists them."""
    parameters: tuple[str, ...] = ()
    """Adapted parameters that its ``target_parameters`` must name: stacked experts, and a few more."""
    expert_rank: int | None = None
    """Rank on each routed expert; None without any."""

    def tensors(self, flat: torch.Tensor | None = None) -> dict[str, torch.Tensor]:
        """Views of ``flat`` (default: the weights) by PEFT name."""
        source = self.weights if flat is None else flat
        return {
            part.name: source[part.offset : part.offset + _size(part.shape)].view(part.shape)
            for part in self.parts
        }


@dataclass(frozen=True, slots=True)
class Slopes:
    """What an objective makes of the scores of some rows."""

    loss: torch.Tensor
    """fp32 scalar: sum of the losses of these rows' examples."""
    per_row: torch.Tensor
    """fp32 [rows]: derivative of the work's mean loss (over *all* its examples) to each row's score."""
    metrics: Mapping[str, torch.Tensor] = field(default_factory=dict)
    """Scalars, summed over these rows' examples."""


class Objective(Protocol):
    """What a run's rows are to teach. A row's score is the summed log-probability of its labelled tokens.

    An objective is a step's own: it may hold what it needs of all rows of the work (reference scores).
    """

    @property
    def rows_per_example(self) -> int:
        """Neighbouring rows that belong together; micro-batches hold whole examples."""
        ...

    def slopes(self, scores: torch.Tensor, rows: Rows, first: int) -> Slopes:
        """Loss and derivatives of whole examples.

        Args:
            scores: fp32 [rows], detached, with the adapter on.
            rows: a stretch of the work's rows.
            first: index of ``rows[0]`` among all rows of the work, micro-batch after micro-batch.
        """
        ...


@dataclass(frozen=True, slots=True)
class Answers:
    """Mean negative log-likelihood over all labelled tokens of the work.

    The one objective that engines know: its slope is the same for every token, whatever the scores.
    """

    rows_per_example: int = 1

    def slopes(self, scores: torch.Tensor, rows: Rows, first: int) -> Slopes:
        """As any other objective; ``rows`` must be all rows of the work."""
        tokens = sum(row.labelled for row in rows)
        return Slopes(-scores.sum(), torch.full_like(scores, -1.0 / tokens))


ANSWERS = Answers()


@dataclass(frozen=True, slots=True)
class Work:
    """One session's share of a step."""

    adapter: Adapter
    batches: Sequence[Rows]
    """Micro-batches; the gradient is that of their union."""
    seed: int
    """Of the step's dropout: it depends on the run and the step alone, so a resumed step repeats it."""
    objective: Objective = ANSWERS
    noise: float | None = None
    """NEFTune's alpha: uniform noise on the embeddings (Jain et al. 2023, arXiv:2310.05914)."""

    @property
    def labelled(self) -> int:
        """Labelled tokens of all rows."""
        return sum(row.labelled for rows in self.batches for row in rows)


def nothing_to_learn() -> TrainingError:
    """The error of a work none of whose tokens carries loss."""
    return TrainingError(
        "No token of the step's rows carries loss.",
        fix="Leave rows without labels out of the data.",
        code="no_labelled_tokens",
    )


class Engine(Protocol):
    """Turns rows into gradients and losses on one frozen base model. One thread calls it.

    Raises, from any call: ``TrainingError`` with ``code="out_of_memory"`` when the device is too small.
    """

    def add(self, lora: LoraSpec, seed: int) -> Adapter:
        """A new adapter: A uniform as in PEFT (Kaiming, a=√5), drawn from ``seed`` alone, and B zero.

        Raises:
            InvalidRequest: ``unknown_target``, a named module is not a linear layer of this model.
        """
        ...

    def remove(self, adapter: Adapter) -> None:
        """Forget an adapter and free its memory."""
        ...

    def save_memory(self) -> None:
        """From now on hold no layer's activations; compute them again in the backward pass. Repeatable."""
        ...

    def forward_backward(self, work: Sequence[Work]) -> list[Sums | TrainingError]:
        """For each work, set ``adapter.grad`` to the gradient of its mean loss over all its labelled tokens
        (or examples, as its objective has it).

        Returns for each work its sums (weights as they were, dropout on), or the error that is its alone:
        one run's trouble is not the others'. An error that is everybody's is raised.
        """
        ...

    def evaluate(self, adapter: Adapter | None, rows: Rows) -> Sums:
        """Sums over one batch without dropout; None is the base model alone."""
        ...

    def scores(self, adapter: Adapter | None, rows: Rows) -> list[float]:
        """For each row the summed log-probability (nats) of its labelled tokens, without dropout."""
        ...

    def logprobs(self, adapter: Adapter | None, tokens: Sequence[int], start: int) -> list[float]:
        """Log-probabilities (nats, fp32) of ``tokens[start:]``, each given all before it; ``start`` ≥ 1."""
        ...

    def describe(self) -> dict[str, str | int | float]:
        """Device, precision, versions: what a result says of the machine."""
        ...


def _size(shape: tuple[int, ...]) -> int:
    size = 1
    for side in shape:
        size *= side
    return size
