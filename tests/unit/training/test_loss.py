"""The loss is the full model's, computed at the labels alone."""

import pytest
import torch
from tinytraining import make_rows
from transformers import AutoModelForCausalLM

from graftwork.training.loss import cross_entropy, labelled, padded

CPU = torch.device("cpu")


@pytest.fixture
def rows(renderer):
    return [renderer.encode(row) for row in make_rows(5)]


def test_labelled_positions_give_the_models_own_loss(base, engine, rows):
    model = AutoModelForCausalLM.from_pretrained(base)
    ids = padded(rows, CPU)
    width = ids.shape[1]
    labels = torch.full_like(ids, -100)
    for number, row in enumerate(rows):
        marked = [token if on else -100 for token, on in zip(row.tokens, row.labels, strict=True)]
        labels[number, : len(marked)] = torch.tensor(marked)
    mask = torch.tensor([[1] * len(row.tokens) + [0] * (width - len(row.tokens)) for row in rows])
    theirs = model(input_ids=ids, attention_mask=mask, labels=labels).loss.item()
    ours = engine.evaluate(None, rows)
    assert ours.mean_loss == pytest.approx(theirs, rel=1e-6)
    assert ours.tokens == sum(row.labelled for row in rows) == int((labels[:, 1:] != -100).sum())


def test_padding_does_not_reach_the_loss(engine, rows):
    together = engine.evaluate(None, rows)
    alone = [engine.evaluate(None, [row]) for row in rows]
    assert together.loss == pytest.approx(sum(sums.loss for sums in alone), rel=1e-5)
    assert together.correct == sum(sums.correct for sums in alone)


def test_the_first_token_is_never_predicted(renderer):
    row = renderer.encode({"text": "red cat runs"})
    assert row.labels[0]
    where, targets = labelled([row], CPU)
    assert where.tolist() == list(range(len(row.tokens) - 1))
    assert targets.tolist() == row.tokens[1:]


def test_chunks_change_neither_loss_nor_gradient():
    torch.manual_seed(0)
    head = torch.nn.Linear(8, 50)
    targets = torch.randint(0, 50, (23,))
    results = []
    for held in (50 * 23, 50 * 5, 1):
        hidden = torch.linspace(-1, 1, 23 * 8).view(23, 8).requires_grad_()
        loss, correct = cross_entropy(hidden, head, targets, 50, held)
        loss.backward()
        results.append((loss.item(), correct.item(), hidden.grad))
    for loss, correct, gradient in results[1:]:
        assert loss == pytest.approx(results[0][0], rel=1e-6)
        assert correct == results[0][1]
        assert torch.allclose(gradient, results[0][2], atol=1e-6)
