"""Held-out rows under ORPO and KTO, as those methods see them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch.nn.functional import logsigmoid

from graftwork.core.errors import PlatformError
from graftwork.core.specs import PreferenceOptions, RunSpec
from graftwork.training.dataset import Dataset
from graftwork.training.engine import ANSWERS, Adapter, Engine, Objective, Sums
from graftwork.training.evaluation import Held, score_rows
from graftwork.training.objectives import Aim, Answering, PairEvaluator

Tick = Callable[[], None]


class Foreign:
    """See ``Aim``: a method that TRL trains, so that only its measure is ours."""

    def __init__(self, held: OddsEvaluator | FeedbackEvaluator | PairEvaluator | None) -> None:
        self.held: Held | None = held
        self._measure = held

    def refer(self, adapter: Adapter | None, tick: Tick) -> None:
        """See ``Aim.refer``."""
        if self._measure is not None:
            self._measure.refer(adapter, tick)

    def objective(self, examples: Sequence[int]) -> Objective:
        """Never asked for."""
        return ANSWERS


class OddsEvaluator:
    """Held-out pairs under ORPO (Hong et al. 2024, arXiv:2403.07691): the chosen answer's loss a token, and
    ``beta`` times the log odds ratio's. TRL trains the prompt's tokens too; they are left out here."""

    def __init__(self, engine: Engine, data: Dataset, options: PreferenceOptions) -> None:
        self._engine, self._rows, self._options = engine, data.rows, options
        self.tokens = data.labelled

    def refer(self, adapter: Adapter | None, tick: Tick) -> None:
        """ORPO knows no reference."""

    def measure(self, adapter: Adapter | None, tick: Tick) -> Sums:
        """See ``Held.measure``."""
        scores = torch.tensor(score_rows(self._engine, adapter, self._rows, tick))
        likely = scores / torch.tensor([row.labelled for row in self._rows])
        chosen, rejected = likely[0::2], likely[1::2]
        odds = (chosen - rejected) - (torch.log1p(-chosen.exp()) - torch.log1p(-rejected.exp()))
        loss = -chosen - self._options.beta * logsigmoid(odds)
        extra = {
            "rewards/accuracies": (chosen > rejected).sum(),
            "rewards/margins": self._options.beta * (chosen - rejected).sum(),
            "logps/accuracies": (chosen > rejected).sum(),
            "logps/chosen": chosen.sum(),
            "logps/rejected": rejected.sum(),
        }
        return _sums(loss, self.tokens, extra)


class FeedbackEvaluator:
    """Held-out answers, wanted and not, under KTO (Ethayarajh et al. 2024, arXiv:2402.01306), with the
    estimate of the divergence at its floor of 0.

    ``rewards/accuracies`` is the share of (wanted, unwanted) couples in which the wanted answer's reward is
    the higher: of the pairs where the rows are pairs, else of all couples.
    """

    def __init__(self, engine: Engine, data: Dataset, options: PreferenceOptions) -> None:
        self._engine, self._rows, self._options = engine, data.rows, options
        self._wanted = torch.tensor(data.wanted)
        self._reference = torch.zeros(len(data.rows))
        self.tokens = data.labelled

    def refer(self, adapter: Adapter | None, tick: Tick) -> None:
        """Take the reference's scores."""
        self._reference = torch.tensor(score_rows(self._engine, adapter, self._rows, tick))

    def measure(self, adapter: Adapter | None, tick: Tick) -> Sums:
        """See ``Held.measure``."""
        options, wanted = self._options, self._wanted
        scores = torch.tensor(score_rows(self._engine, adapter, self._rows, tick))
        rewards = options.beta * (scores - self._reference)
        loss = torch.where(
            wanted,
            options.desirable_weight * (1 - torch.sigmoid(rewards)),
            options.undesirable_weight * (1 - torch.sigmoid(-rewards)),
        )
        likely = scores / torch.tensor([row.labelled for row in self._rows])
        count = len(self._rows)
        extra = {
            "rewards/accuracies": self._wins(rewards) * count,
            "logps/accuracies": self._wins(likely) * count,
            "rewards/margins": (_mean(rewards[wanted]) - _mean(rewards[~wanted])) * count,
        }
        return _sums(loss, self.tokens, extra)

    def _wins(self, values: torch.Tensor) -> torch.Tensor:
        good, bad = values[self._wanted], values[~self._wanted]
        if (
            bool((self._wanted[0::2]).all())
            and not bool((self._wanted[1::2]).any())
            and len(good) == len(bad)
        ):
            return (good > bad).double().mean()
        return (
            (good[:, None] > bad[None, :]).double().mean() if len(good) and len(bad) else values.new_zeros(())
        )


def aim_of(spec: RunSpec, engine: Engine, data: Dataset, valid: Dataset | None) -> Aim:
    """What the run's method measures when TRL trains it.

    Raises:
        PlatformError: ``method_needs_trainer``, TRL is not used for it.
    """
    options = spec.preference or PreferenceOptions()
    match spec.method:
        case "sft" | "cpt":
            return Answering(engine, valid)
        case "dpo":
            return Foreign(PairEvaluator(engine, valid, options) if valid else None)
        case "orpo":
            return Foreign(OddsEvaluator(engine, valid, options) if valid else None)
        case "kto":
            return Foreign(FeedbackEvaluator(engine, valid, options) if valid else None)
    raise PlatformError(f"TRL is not used for {spec.method}.", code="method_needs_trainer")


def _mean(values: torch.Tensor) -> torch.Tensor:
    return values.mean() if len(values) else values.new_zeros(())


def _sums(loss: torch.Tensor, tokens: int, extra: dict[str, torch.Tensor]) -> Sums:
    return Sums(
        loss=float(loss.sum()),
        tokens=tokens,
        examples=len(loss),
        extra={name: float(value) for name, value in extra.items()},
        by_example=True,
    )
