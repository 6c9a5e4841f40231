"""Every architecture packed, several adapters at once, against PEFT's layers taking turns."""

import random

import pytest
import torch
from tinymodels import ARCHITECTURES, make_model

from graftwork.core.specs import LoraSpec
from graftwork.data.rendering import Encoded
from graftwork.training.engine import Work
from graftwork.training.loading import load_model
from graftwork.training.packed.body import alike
from graftwork.training.packed.engine import PackedEngine
from graftwork.training.solo import SoloEngine

SPECS = (
    LoraSpec(rank=6, alpha=9),
    LoraSpec(rank=4, alpha=8, rslora=True),
    LoraSpec(rank=3, alpha=8, targets=("q_proj",)),
    LoraSpec(rank=6, alpha=9, expert_rank=5),
)


def rows_of(count, seed):
    """Rows of 4 to 20 tokens, so that sliding windows cut and recurrences run."""
    numbers = random.Random(seed)
    rows = []
    for _ in range(count):
        length = numbers.randint(4, 20)
        labels = [at > 2 for at in range(length)]
        rows.append(Encoded([numbers.randrange(300) for _ in range(length)], labels, length))
    return rows


def stirred(adapter, seed):
    random = torch.Generator().manual_seed(seed)
    for view in adapter.tensors().values():
        view.copy_(torch.randn(view.shape, generator=random) * 0.1)
    return adapter


def relative(ours, theirs):
    return ((ours - theirs).abs().max() / theirs.abs().max().clamp_min(1e-9)).item()


@pytest.fixture(scope="module", params=ARCHITECTURES)
def engines(request, tmp_path_factory):
    folder = make_model(tmp_path_factory.mktemp("models") / "model", request.param)
    cpu = torch.device("cpu")
    return PackedEngine.load(folder, cpu), SoloEngine.load(folder, cpu)


def test_company_of_four_equals_peft_one_by_one(engines):
    packed, solo = engines
    adapters = [stirred(packed.add(lora, seed), seed) for seed, lora in enumerate(SPECS)]
    works = [Work(adapter, [rows_of(3, seed)], 0) for seed, adapter in enumerate(adapters)]
    outcomes = packed.forward_backward(works)
    for work, outcome, lora in zip(works, outcomes, SPECS, strict=True):
        lone = solo.add(lora, 0)
        for name, view in work.adapter.tensors().items():
            lone.tensors()[name].copy_(view)
        (wanted,) = solo.forward_backward([Work(lone, work.batches, 0)])
        assert (outcome.tokens, outcome.correct) == (wanted.tokens, wanted.correct)
        assert outcome.loss == pytest.approx(wanted.loss, rel=1e-5)
        ours, theirs = (a.tensors(a.grad) for a in (work.adapter, lone))
        assert {name: relative(ours[name], theirs[name]) < 2e-4 for name in theirs} == dict.fromkeys(
            theirs, True
        )
        solo.remove(lone)
    for adapter in adapters:
        packed.remove(adapter)


def test_the_start_is_solos_and_changes_nothing_yet(engines):
    packed, solo = engines
    lora = LoraSpec(rank=4, alpha=8)
    ours, theirs = packed.add(lora, 3), solo.add(lora, 3)
    assert (ours.targets, ours.parameters) == (theirs.targets, theirs.parameters)
    assert set(ours.tensors()) == set(theirs.tensors())
    tokens = rows_of(1, 9)[0].tokens
    base = torch.tensor(packed.logprobs(None, tokens, 1))
    torch.testing.assert_close(torch.tensor(packed.logprobs(ours, tokens, 1)), base)
    packed.remove(ours)
    solo.remove(theirs)


def test_a_neighbour_of_nans_changes_nothing(engines):
    packed, _ = engines
    mine, sick = (stirred(packed.add(SPECS[0], seed), seed) for seed in (0, 1))
    works = [Work(mine, [rows_of(3, 1)], 0), Work(sick, [rows_of(3, 2)], 0)]
    wanted, _ = packed.forward_backward(works)
    before = mine.grad.clone()
    sick.weights.fill_(float("nan"))
    found, _ = packed.forward_backward(works)
    if packed.body.stacks:  # its tokens meet other experts than before: groups of other sizes round otherwise
        assert found.loss == pytest.approx(wanted.loss, rel=1e-6)
        assert relative(mine.grad, before) < 1e-5
    else:
        assert found == wanted
        assert torch.equal(mine.grad, before)
    packed.remove(mine)
    packed.remove(sick)


@pytest.mark.parametrize("quantization", ["none", "nf4"])
def test_a_mixture_in_half_precision_is_not_refused_for_a_token_that_meets_another_expert(
    tmp_path, quantization
):
    folder = make_model(tmp_path / "model", "qwen3_moe", initializer_range=0.05)
    model = load_model(folder, torch.device("cpu"), torch.bfloat16, quantization)
    PackedEngine(model)


def test_rows_that_see_each_other_are_noticed_in_half_precision():
    wanted = torch.randn(19, 64, generator=torch.Generator().manual_seed(0)).bfloat16()
    assert alike(wanted * 1.01, wanted)
    found = wanted.clone()
    found[6:] += 0.2  # all but the first row
    assert not alike(found, wanted)
