"""DPO's slopes are the derivatives of its loss."""

import pytest
import torch
from torch.nn.functional import logsigmoid

from graftwork.core.specs import PreferenceOptions
from graftwork.data.encoding import Encoded
from graftwork.training.engine import Sums
from graftwork.training.objectives import Preference, measures


def rows(*lengths):
    return [Encoded([1] * (n + 1), [False] + [True] * n, n + 1) for n in lengths]


SCORES = torch.tensor([-3.0, -4.0, -9.5, -2.0, -5.0, -5.0])
REFERENCE = [-3.5, -3.0, -8.0, -2.5, -5.0, -5.0]
ROWS = rows(3, 5, 8, 2, 4, 4)


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_slopes_are_the_gradient_of_the_mean_loss(smoothing):
    options = PreferenceOptions(beta=0.3, label_smoothing=smoothing)
    scores = SCORES.clone().requires_grad_()
    ratios = scores - torch.tensor(REFERENCE)
    margin = 0.3 * (ratios[0::2] - ratios[1::2])
    loss = -(1 - smoothing) * logsigmoid(margin) - smoothing * logsigmoid(-margin)
    loss.mean().backward()
    found = Preference(options, REFERENCE).slopes(SCORES, ROWS, 0)
    assert found.loss.item() == pytest.approx(loss.sum().item())
    assert torch.allclose(found.per_row, scores.grad)
    assert found.metrics["rewards/margins"].item() == pytest.approx(margin.sum().item())


def test_a_stretch_of_the_work_gets_its_share():
    objective = Preference(PreferenceOptions(), REFERENCE)
    whole = objective.slopes(SCORES, ROWS, 0)
    parts = [objective.slopes(SCORES[at:to], ROWS[at:to], at) for at, to in ((0, 2), (2, 6))]
    assert torch.allclose(torch.cat([part.per_row for part in parts]), whole.per_row)
    assert sum(part.loss.item() for part in parts) == pytest.approx(whole.loss.item())


def test_accuracies_count_pairs_and_a_tie_is_not_right():
    found = Preference(PreferenceOptions(), REFERENCE).slopes(SCORES, ROWS, 0)
    # against the reference the first pair gains, the second loses, the third is as it was
    assert found.metrics["rewards/accuracies"].item() == 1
    # a token: -1 against -0.8, -1.19 against -1, and a tie
    assert found.metrics["logps/accuracies"].item() == 0


def test_measures_are_means_over_examples():
    sums = Sums(loss=2.0, examples=4, extra={"a": 2.0}, by_example=True)
    assert sums.mean_loss == 0.5
    assert measures(sums, "eval_") == {"eval_a": 0.5}
