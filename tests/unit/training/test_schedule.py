"""Learning rates are those of transformers' schedulers, step by step."""

import pytest
import torch
from tinytraining import make_schedule
from transformers import get_scheduler

from graftwork.training.schedule import learning_rate

THEIRS = {"cosine": "cosine", "linear": "linear", "constant": "constant_with_warmup"}


@pytest.mark.parametrize("decay", THEIRS)
@pytest.mark.parametrize(
    ("total", "ratio", "warmup"), [(100, 0.05, 5), (7, 0.1, 1), (10, 0.0, 0), (3, 1.0, 3)]
)
def test_rates_equal_those_of_transformers(decay, total, ratio, warmup):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.02)
    theirs = get_scheduler(THEIRS[decay], optimizer, num_warmup_steps=warmup, num_training_steps=total)
    schedule = make_schedule(decay=decay, warmup_ratio=ratio, learning_rate=0.02)
    for step in range(total):
        assert learning_rate(schedule, step, total) == pytest.approx(theirs.get_last_lr()[0], rel=1e-12)
        optimizer.step()
        theirs.step()
