"""The packed engine: the solo engine's losses and gradients, whatever the company."""

import copy
import random

import pytest
import torch
from packedmodels import FAMILIES, make_model

from graftwork.core.errors import InvalidRequest, TrainingError
from graftwork.core.specs import LoraSpec
from graftwork.data.rendering import Encoded
from graftwork.training.engine import Slopes, Sums, Work
from graftwork.training.packed.engine import PackedEngine
from graftwork.training.solo import SoloEngine

LORA = LoraSpec(rank=4, alpha=8)
SPECS = [
    LORA,
    LORA,
    LoraSpec(rank=2, alpha=2, targets=("q_proj", "down_proj"), rslora=True),
    LoraSpec(rank=4, alpha=3),
    LoraSpec(rank=3, alpha=8, targets=("v_proj",)),
]


@pytest.fixture(params=FAMILIES)
def model(request):
    return make_model(request.param)


@pytest.fixture
def engine():
    return PackedEngine(make_model("qwen3"))


def make_rows(count, seed=0, longest=14):
    numbers = random.Random(seed)
    rows = []
    for _ in range(count):
        length = numbers.randint(3, longest)
        labels = [numbers.random() < 0.5 for _ in range(length)]
        labels[numbers.randrange(1, length)] = True
        rows.append(Encoded([numbers.randrange(97) for _ in range(length)], labels, length))
    return rows


def stir(adapter, seed=0):
    generator = torch.Generator().manual_seed(seed)
    for _, view in sorted(adapter.tensors().items()):
        view.copy_(torch.randn(view.shape, generator=generator) * 0.1)


def step(engine, adapter, batches, seed=5, **more):
    (outcome,) = engine.forward_backward([Work(adapter, batches, seed, **more)])
    assert isinstance(outcome, Sums), outcome
    return outcome, gradients(adapter)


def gradients(adapter):
    return {name: view.clone() for name, view in adapter.tensors(adapter.grad).items()}


def close(ones, others, limit=1e-5):
    assert set(ones) == set(others)
    for name, one in ones.items():
        scale = max(others[name].abs().max().item(), 1e-3)
        assert (one - others[name]).abs().max().item() <= limit * scale, name


def lone(model, spec, seed, batches, **more):
    """What the solo engine makes of one adapter's step."""
    solo = SoloEngine(copy.deepcopy(model))
    adapter = solo.add(spec, seed)
    stir(adapter, seed)
    return step(solo, adapter, batches, **more)


@pytest.mark.parametrize("fuse", [True, False])
def test_company_has_the_losses_and_gradients_of_the_solo_engine(model, fuse):
    batches = [[make_rows(2 + n, n)[:2], make_rows(2 + n, n)[2:]] for n in range(len(SPECS))]
    wanted = [
        lone(model, spec, n, [part for part in parts if part])
        for n, (spec, parts) in enumerate(zip(SPECS, batches, strict=True))
    ]
    packed = PackedEngine(copy.deepcopy(model), fuse=fuse)
    assert packed.body.selects == fuse
    adapters = [packed.add(spec, n) for n, spec in enumerate(SPECS)]
    for n, adapter in enumerate(adapters):
        stir(adapter, n)
    work = [Work(adapter, parts, 5) for adapter, parts in zip(adapters, batches, strict=True)]
    outcomes = packed.forward_backward(work)
    for outcome, adapter, (sums, gradient) in zip(outcomes, adapters, wanted, strict=True):
        assert isinstance(outcome, Sums)
        assert outcome.loss == pytest.approx(sums.loss, rel=1e-5)
        assert (outcome.tokens, outcome.correct, outcome.examples) == (
            sums.tokens,
            sums.correct,
            sums.examples,
        )
        close(gradients(adapter), gradient)


@pytest.mark.parametrize("rank", [1, 2, 3, 6, 9])
def test_ranks_that_grouped_products_cannot_take_share_their_pass_all_the_same(rank):
    """They failed in company and were done again one by one: right, but as slow as alone."""
    model = make_model("qwen3")
    spec = LoraSpec(rank=rank, alpha=8, dropout=0.1)
    wanted = []
    for n in range(3):
        lone = PackedEngine(copy.deepcopy(model))
        adapter = lone.add(spec, n)
        stir(adapter, n)
        wanted.append(step(lone, adapter, [make_rows(2 + n, n)]))
    packed = Counting(model)
    adapters = [packed.add(spec, n) for n in range(3)]
    for n, adapter in enumerate(adapters):
        stir(adapter, n)
    outcomes = packed.forward_backward([Work(a, [make_rows(2 + n, n)], 5) for n, a in enumerate(adapters)])
    assert packed.passes == [3]
    for outcome, adapter, (sums, gradient) in zip(outcomes, adapters, wanted, strict=True):
        assert isinstance(outcome, Sums)
        assert outcome.loss == pytest.approx(sums.loss, rel=1e-5)
        close(gradients(adapter), gradient)


class Counting(PackedEngine):
    """Counts the works of each pass."""

    def __init__(self, model):
        super().__init__(model)
        self.passes = []

    def _pass(self, shares):
        self.passes.append(len(shares))
        return super()._pass(shares)


def test_fresh_adapters_are_those_of_the_solo_engine():
    model = make_model("qwen3")
    solo, packed = SoloEngine(copy.deepcopy(model)), PackedEngine(model)
    for spec in SPECS:
        one, other = solo.add(spec, 3).tensors(), packed.add(spec, 3).tensors()
        assert set(one) == set(other)
        assert all(torch.equal(one[name], other[name]) for name in one)


def test_small_passes_add_up_to_one_large_pass(engine):
    adapters = [engine.add(LORA, n) for n in range(3)]
    for n, adapter in enumerate(adapters):
        stir(adapter, n)
    work = [Work(adapter, [make_rows(4, n)], 5) for n, adapter in enumerate(adapters)]
    whole = engine.forward_backward(work)
    gradient = [gradients(adapter) for adapter in adapters]
    engine.max_tokens = 15
    parts = engine.forward_backward(work)
    for one, other, adapter, wanted in zip(whole, parts, adapters, gradient, strict=True):
        assert isinstance(one, Sums) and isinstance(other, Sums)
        assert other.loss == pytest.approx(one.loss, rel=1e-6)
        assert (one.tokens, one.correct, one.examples) == (other.tokens, other.correct, other.examples)
        close(gradients(adapter), wanted)


class Squares:
    """Half the mean square of each pair's summed scores: slopes depend on scores, rows come in twos."""

    rows_per_example = 2

    def __init__(self, examples):
        self.examples, self.seen = examples, []

    def slopes(self, scores, rows, first):
        self.seen.append((first, len(rows)))
        pairs = scores.view(-1, 2).sum(1)
        return Slopes(
            (pairs**2 / 2).sum(), (pairs / self.examples).repeat_interleave(2), {"score": scores.sum()}
        )


def test_any_objective_in_company_with_another(model):
    rows, others = make_rows(6, 1), make_rows(3, 2)
    rows[3] = Encoded(rows[3].tokens, [False] * len(rows[3].tokens), rows[3].length)  # its score is 0
    sums, wanted = lone(model, LORA, 1, [rows[:2], rows[2:]], objective=Squares(3))
    packed = PackedEngine(copy.deepcopy(model))
    adapter, other = packed.add(LORA, 1), packed.add(LORA, 2)
    stir(adapter, 1)
    packed.max_tokens = 45
    squares = Squares(3)
    found, _ = packed.forward_backward(
        [Work(adapter, [rows[:2], rows[2:]], 5, squares), Work(other, [others], 5)]
    )
    assert isinstance(found, Sums)
    assert sum(count for _, count in squares.seen) == 6 and all(first % 2 == 0 for first, _ in squares.seen)
    assert found.mean_loss == pytest.approx(sums.mean_loss, rel=1e-5)
    assert found.extra["score"] == pytest.approx(sums.extra["score"], rel=1e-5)
    assert (found.examples, found.tokens, found.correct) == (3, sums.tokens, sums.correct)
    close(gradients(adapter), wanted)
    scores = packed.scores(adapter, rows)
    assert scores[3] == 0
    assert sum(scores) == pytest.approx(found.extra["score"], rel=1e-5)


def test_evaluation_scores_and_logprobs_are_the_solo_engines(model):
    rows = make_rows(9)
    solo, packed = SoloEngine(copy.deepcopy(model)), PackedEngine(copy.deepcopy(model))
    one, other = solo.add(LORA, 1), packed.add(LORA, 1)
    stir(one)
    stir(other)
    packed.max_tokens = 40
    for a, b in ((None, None), (one, other)):
        wanted, found = solo.evaluate(a, rows), packed.evaluate(b, rows)
        assert found.loss == pytest.approx(wanted.loss, rel=1e-5)
        assert (found.tokens, found.correct, found.examples) == (
            wanted.tokens,
            wanted.correct,
            wanted.examples,
        )
        assert packed.scores(b, rows) == pytest.approx(solo.scores(a, rows), rel=1e-4, abs=1e-4)
        tokens = rows[0].tokens
        assert packed.logprobs(b, tokens, 2) == pytest.approx(solo.logprobs(a, tokens, 2), rel=1e-4)


def test_noise_is_the_solo_engines(model):
    rows = make_rows(4)
    sums, wanted = lone(model, LORA, 1, [rows[:3], rows[3:]], noise=5.0)
    packed = PackedEngine(copy.deepcopy(model))
    adapter = packed.add(LORA, 1)
    stir(adapter, 1)
    found, gradient = step(packed, adapter, [rows[:3], rows[3:]], noise=5.0)
    assert found.loss == pytest.approx(sums.loss, rel=1e-5)
    close(gradient, wanted)


def test_dropout_follows_the_seed_not_the_company(engine):
    rows = make_rows(5)
    adapter = engine.add(LoraSpec(rank=4, alpha=8, dropout=0.5), 1)
    other = engine.add(LoraSpec(rank=4, alpha=8, dropout=0.3), 2)
    stir(adapter, 1)
    stir(other, 2)
    sums, gradient = step(engine, adapter, [rows])
    assert step(engine, adapter, [rows], seed=6)[0].loss != sums.loss
    split, again = step(engine, adapter, [rows[:2], rows[2:]])
    assert split.loss == pytest.approx(sums.loss, rel=1e-6)
    close(again, gradient)
    engine.max_tokens = 20
    work = [Work(other, [make_rows(3, 2)], 9), Work(adapter, [rows], 5)]
    assert engine.forward_backward(work)[1].loss == pytest.approx(sums.loss, rel=1e-6)
    close(gradients(adapter), gradient)
    assert engine.evaluate(adapter, rows).loss != pytest.approx(sums.loss, rel=1e-3)


def test_dropout_has_the_gradient_of_the_loss(engine):
    rows = make_rows(3)
    adapter = engine.add(LoraSpec(rank=2, alpha=4, dropout=0.4), 1)
    stir(adapter)
    _, gradient = step(engine, adapter, [rows])
    for name, view in adapter.tensors().items():
        flat, at = view.view(-1), view.numel() // 2
        before, tokens = flat[at].item(), sum(row.labelled for row in rows)
        losses = []
        for change in (1e-2, -1e-2):
            flat[at] = before + change
            losses.append(step(engine, adapter, [rows])[0].loss / tokens)
        flat[at] = before
        slope = (losses[0] - losses[1]) / 2e-2
        assert gradient[name].view(-1)[at].item() == pytest.approx(slope, rel=0.05, abs=2e-3), name


def test_recomputed_activations_give_the_same_gradient(engine):
    adapter = engine.add(LoraSpec(rank=4, alpha=8, dropout=0.2), 1)
    stir(adapter)
    rows = make_rows(5)
    held, gradient = step(engine, adapter, [rows])
    engine.body.recompute()
    again, recomputed = step(engine, adapter, [rows])
    assert again == held
    close(recomputed, gradient, 1e-6)


def test_adapters_come_and_go_while_others_live(engine):
    rows = make_rows(4)
    first, second, third = (engine.add(LORA, n) for n in range(3))
    for n, adapter in enumerate((first, second, third)):
        stir(adapter, n)
    wanted = step(engine, third, [rows])
    base = engine.evaluate(None, rows)
    engine.remove(second)
    sums, gradient = step(engine, third, [rows])
    assert sums == wanted[0]
    close(gradient, wanted[1], 0)
    again = engine.add(LORA, 1)  # takes the empty place
    assert engine.evaluate(again, rows).loss == base.loss
    assert not any(view.any() for name, view in again.tensors().items() if "lora_B" in name)
    work = [Work(adapter, [rows], 5) for adapter in (again, third, first)]
    assert engine.forward_backward(work)[1].loss == pytest.approx(wanted[0].loss, rel=1e-6)
    for adapter in (first, again, third):
        engine.remove(adapter)
    assert engine.evaluate(None, rows) == base


@pytest.mark.parametrize("trouble", ["nan", "token", "negative", "empty", "nothing", "objective"])
def test_a_poisoned_neighbour_changes_nothing(engine, trouble):
    adapters = [engine.add(LORA, n) for n in range(3)]
    for n, adapter in enumerate(adapters):
        stir(adapter, n)
    rows = [make_rows(3, n) for n in range(3)]
    wanted = engine.forward_backward([Work(adapters[n], [rows[n]], n) for n in (0, 2)])
    gradient = [gradients(adapters[n]) for n in (0, 2)]
    objective = {}
    bad = rows[1]
    match trouble:
        case "nan":
            adapters[1].weights.fill_(float("nan"))
        case "token" | "negative":
            bad = [Encoded([5, 97 if trouble == "token" else -1, 3], [False, True, True], 3), *bad]
        case "empty":
            bad = []
        case "nothing":
            bad = [Encoded([5, 6, 3], [False, False, False], 3)]
        case "objective":
            objective = {"objective": Broken()}
    work = [
        Work(adapters[n], [bad if n == 1 else rows[n]], n, **(objective if n == 1 else {})) for n in range(3)
    ]
    first, failed, last = engine.forward_backward(work)
    if trouble == "nan":
        assert isinstance(failed, Sums) and failed.loss != failed.loss
    else:
        assert isinstance(failed, TrainingError)
    for found, adapter, sums, one in zip(
        (first, last), (adapters[0], adapters[2]), wanted, gradient, strict=True
    ):
        assert isinstance(found, Sums) and isinstance(sums, Sums)
        assert found.loss == pytest.approx(sums.loss, rel=1e-6)
        close(gradients(adapter), one)


class Broken:
    rows_per_example = 1

    def slopes(self, scores, rows, first):
        raise ValueError("no reference scores")


class Crowded(PackedEngine):
    """An engine whose device is full a given number of times."""

    full = 0

    def _pass(self, shares):
        found = super()._pass(shares)
        if self.full:
            self.full -= 1
            raise torch.OutOfMemoryError("CUDA out of memory")
        return found


def test_out_of_memory_makes_passes_smaller_then_recomputes_then_fails_that_work_alone():
    engine = Crowded(make_model("qwen3"), max_tokens=512)
    first, second = engine.add(LORA, 1), engine.add(LORA, 2)
    stir(first)
    stir(second)
    wanted, gradient = step(engine, first, [make_rows(4)])
    engine.full = 2
    found, again = step(engine, first, [make_rows(4)])
    assert found.loss == pytest.approx(wanted.loss, rel=1e-6)
    close(again, gradient)
    assert engine.max_tokens == 256
    engine.full = 2  # once in company, once alone
    failed, fine = engine.forward_backward([Work(first, [make_rows(4)], 1), Work(second, [make_rows(4)], 1)])
    assert isinstance(failed, TrainingError) and failed.code == "out_of_memory"
    assert isinstance(fine, Sums)


def test_dora_is_for_the_solo_engine(engine):
    with pytest.raises(InvalidRequest) as caught:
        engine.add(LoraSpec(dora=True), 1)
    assert caught.value.code == "trains_alone"


def test_a_family_that_cannot_run_packed_is_refused():
    with pytest.raises(TrainingError) as caught:
        PackedEngine(make_model("gemma2", final_logit_softcapping=None, attn_implementation="eager"))
    assert caught.value.code == "unsupported_model"
