"""What a run's method makes of its rows: the objective of each step, and the measure of held-out rows.

``Answering`` is supervised fine-tuning and continued pre-training: the mean loss of all labelled tokens.
``Preferring`` is DPO: pairs of rows, and scores that are compared with a reference's.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch.nn.functional import logsigmoid

from graftwork.core.errors import PlatformError
from graftwork.core.specs import PreferenceOptions, RunSpec
from graftwork.training.dataset import Dataset
from graftwork.training.engine import ANSWERS, Adapter, Engine, Objective, Rows, Slopes, Sums
from graftwork.training.evaluation import Evaluator, Held, score_rows

Tick = Callable[[], None]


@dataclass(frozen=True, slots=True)
class Preference:
    """Direct Preference Optimization (Rafailov et al. 2023, arXiv:2305.18290) of neighbouring rows: chosen,
    rejected.

    A pair's margin is ``beta`` times how much further the policy prefers the chosen row than the reference
    does; its loss is ``-log sigmoid(margin)``. With ``smoothing`` that share of labels is taken to be swapped
    (conservative DPO, Mitchell 2023, "A note on DPO with noisy preferences").

    Attributes:
        reference: the reference's scores of all rows of the work, in its order.
    """

    options: PreferenceOptions
    reference: Sequence[float]
    rows_per_example: int = 2

    def slopes(self, scores: torch.Tensor, rows: Rows, first: int) -> Slopes:
        """See ``Objective.slopes``; metrics have TRL's names, ``logps/accuracies`` is ours: the share of
        pairs whose chosen row is the likelier one, a token, whatever the reference holds of it."""
        beta, swapped = self.options.beta, self.options.label_smoothing
        reference = torch.tensor(self.reference[first : first + len(rows)], dtype=scores.dtype)
        rewards = beta * (scores - reference.to(scores.device))
        chosen, rejected = rewards[0::2], rewards[1::2]
        margin = chosen - rejected
        loss = -(1 - swapped) * logsigmoid(margin) - swapped * logsigmoid(-margin)
        slope = beta * (swapped * torch.sigmoid(margin) - (1 - swapped) * torch.sigmoid(-margin))
        pairs = len(self.reference) // 2
        per_row = torch.stack((slope, -slope), dim=1).flatten() / pairs
        lengths = torch.tensor([row.labelled for row in rows], dtype=scores.dtype, device=scores.device)
        likely = scores / lengths
        return Slopes(
            loss.sum(),
            per_row,
            {
                "rewards/chosen": chosen.sum(),
                "rewards/rejected": rejected.sum(),
                "rewards/accuracies": (chosen > rejected).sum(),
                "rewards/margins": margin.sum(),
                "logps/chosen": scores[0::2].sum(),
                "logps/rejected": scores[1::2].sum(),
                "logps/accuracies": (likely[0::2] > likely[1::2]).sum(),
            },
        )


class Aim(Protocol):
    """A method, as a session sees it."""

    held: Held | None
    """Measures the held-out rows; None without any."""

    def refer(self, adapter: Adapter | None, tick: Tick) -> None:
        """Take the reference's scores: of ``adapter`` as it is now, or of the base alone. Called once, before
        the first step; ``tick`` is called now and then."""
        ...

    def objective(self, examples: Sequence[int]) -> Objective:
        """The objective of a step over these examples of the training set, in the step's order."""
        ...


class Answering:
    """See ``Aim``."""

    def __init__(self, engine: Engine, valid: Dataset | None) -> None:
        self.held: Held | None = Evaluator(engine, valid) if valid else None

    def refer(self, adapter: Adapter | None, tick: Tick) -> None:
        """Answers are compared with nothing."""

    def objective(self, examples: Sequence[int]) -> Objective:
        """See ``Aim.objective``."""
        return ANSWERS


class Preferring:
    """See ``Aim``. Reference scores are taken once, of every row, and kept: the reference never changes."""

    def __init__(
        self, engine: Engine, data: Dataset, valid: Dataset | None, options: PreferenceOptions
    ) -> None:
        self._engine, self._rows, self._options = engine, data.rows, options
        self._reference: list[float] = []
        self._pairs = PairEvaluator(engine, valid, options) if valid else None
        self.held: Held | None = self._pairs

    def refer(self, adapter: Adapter | None, tick: Tick) -> None:
        """See ``Aim.refer``."""
        self._reference = score_rows(self._engine, adapter, self._rows, tick)
        if self._pairs is not None:
            self._pairs.refer(adapter, tick)

    def objective(self, examples: Sequence[int]) -> Objective:
        """See ``Aim.objective``."""
        return Preference(
            self._options, [self._reference[2 * pair + side] for pair in examples for side in (0, 1)]
        )


class PairEvaluator:
    """Held-out pairs: DPO's loss, and how often the chosen row wins."""

    def __init__(self, engine: Engine, data: Dataset, options: PreferenceOptions) -> None:
        self._engine, self._rows, self._options = engine, data.rows, options
        self._reference: list[float] = []
        self.tokens = data.labelled

    def refer(self, adapter: Adapter | None, tick: Tick) -> None:
        """Take the reference's scores."""
        self._reference = score_rows(self._engine, adapter, self._rows, tick)

    def measure(self, adapter: Adapter | None, tick: Tick) -> Sums:
        """See ``Held.measure``."""
        scores = torch.tensor(score_rows(self._engine, adapter, self._rows, tick), dtype=torch.float32)
        found = Preference(self._options, self._reference).slopes(scores, self._rows, 0)
        return Sums(
            loss=float(found.loss),
            tokens=self.tokens,
            examples=len(self._rows) // 2,
            extra={name: float(value) for name, value in found.metrics.items()},
            by_example=True,
        )


def aim_of(spec: RunSpec, engine: Engine, data: Dataset, valid: Dataset | None) -> Aim:
    """What the run's method is to the native trainer.

    Raises:
        PlatformError: ``method_needs_trainer``, the method is another trainer's.
    """
    match spec.method:
        case "sft" | "cpt":
            return Answering(engine, valid)
        case "dpo":
            return Preferring(engine, data, valid, spec.preference or PreferenceOptions())
        case method:
            raise PlatformError(
                f"The native trainer does not train by {method}.",
                fix="Use the trainer trl.",
                code="method_needs_trainer",
            )


def measures(sums: Sums, prefix: str = "") -> dict[str, float]:
    """What an objective measured besides its loss, a mean over the examples each."""
    return {f"{prefix}{name}": value / sums.examples for name, value in sums.extra.items()}
