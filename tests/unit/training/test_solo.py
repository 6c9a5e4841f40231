"""The solo engine: PEFT's gradients, whatever the micro-batches and the company."""

import pytest
import torch
from peft import LoraConfig, get_peft_model
from tinytraining import make_rows
from transformers import AutoModelForCausalLM, Gemma2Config, Gemma2ForCausalLM

from graftwork.core.errors import InvalidRequest, TrainingError
from graftwork.core.specs import LoraSpec
from graftwork.training.engine import Slopes, Sums, Work
from graftwork.training.solo import SoloEngine, recompute_activations

LORA = LoraSpec(rank=4, alpha=8)


@pytest.fixture
def rows(renderer):
    return [renderer.encode(row) for row in make_rows(6)]


def stir(adapter, seed=0):
    """Weights away from the start, where B is zero and A has no gradient."""
    generator = torch.Generator().manual_seed(seed)
    adapter.weights.copy_(torch.randn(adapter.weights.shape, generator=generator) * 0.1)


def step(engine, adapter, batches, seed=5, **more):
    (outcome,) = engine.forward_backward([Work(adapter, batches, seed, **more)])
    assert isinstance(outcome, Sums)
    return outcome, adapter.grad.clone()


@pytest.mark.filterwarnings(
    "ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"
)  # PEFT asks for it
def test_loss_and_gradient_are_those_of_peft(base, engine, rows):
    adapter = engine.add(LORA, seed=1)
    stir(adapter)
    sums, gradient = step(engine, adapter, [rows])
    config = LoraConfig(r=4, lora_alpha=8, target_modules=list(adapter.targets), task_type="CAUSAL_LM")
    peft = get_peft_model(AutoModelForCausalLM.from_pretrained(base), config)
    parameters = {name.replace(".default.", "."): p for name, p in peft.named_parameters() if p.requires_grad}
    ours = adapter.tensors()
    assert set(parameters) == set(ours)
    total = torch.zeros(())
    for name, parameter in parameters.items():
        parameter.data.copy_(ours[name])
    for row in rows:
        labels = torch.tensor([[t if on else -100 for t, on in zip(row.tokens, row.labels, strict=True)]])
        total = total + peft(input_ids=torch.tensor([row.tokens]), labels=labels).loss * row.labelled
    loss = total / sum(row.labelled for row in rows)
    loss.backward()
    assert sums.mean_loss == pytest.approx(loss.item(), rel=1e-5)
    for name, view in adapter.tensors(gradient).items():
        assert torch.allclose(view, parameters[name].grad, atol=1e-5), name


def test_accumulation_has_the_gradient_of_the_whole_batch(engine, rows):
    adapter = engine.add(LORA, seed=1)
    stir(adapter)
    whole, gradient = step(engine, adapter, [rows])
    parts, summed = step(engine, adapter, [rows[:1], rows[1:4], rows[4:]])
    assert parts.mean_loss == pytest.approx(whole.mean_loss, rel=1e-6)
    assert torch.allclose(gradient, summed, atol=1e-6)


def test_adapters_in_company_get_exactly_what_they_get_alone(base, engine, rows):
    specs = [
        LoraSpec(rank=4, alpha=8, dropout=0.3),
        LoraSpec(rank=2, alpha=2, targets=("q_proj",), rslora=True),
    ]
    alone = []
    for number, lora in enumerate(specs):
        single = SoloEngine.load(base, torch.device("cpu"))
        adapter = single.add(lora, seed=number)
        stir(adapter, number)
        alone.append(step(single, adapter, [rows[number:]], seed=number))
    adapters = [engine.add(lora, seed=number) for number, lora in enumerate(specs)]
    for number, adapter in enumerate(adapters):
        stir(adapter, number)
    engine.evaluate(adapters[1], rows)
    outcomes = engine.forward_backward(
        [Work(adapter, [rows[number:]], number) for number, adapter in enumerate(adapters)]
    )
    for number, adapter in enumerate(adapters):
        assert outcomes[number] == alone[number][0]
        assert torch.equal(adapter.grad, alone[number][1])


def test_dropout_follows_the_seed_and_evaluation_has_none(engine, rows):
    adapter = engine.add(LoraSpec(rank=4, alpha=8, dropout=0.5), seed=1)
    stir(adapter)
    losses = [step(engine, adapter, [rows], seed)[0].loss for seed in (1, 1, 2)]
    assert losses[0] == losses[1] != losses[2]
    quiet = [engine.evaluate(adapter, rows).loss for _ in range(2)]
    assert quiet[0] == quiet[1]
    assert engine.evaluate(adapter, rows).loss not in losses


def test_the_start_is_drawn_from_the_seed_and_changes_nothing_yet(engine, rows):
    base = engine.evaluate(None, rows)
    first = engine.add(LORA, 1)
    assert engine.evaluate(first, rows).loss == base.loss
    stir(first)
    assert engine.evaluate(None, rows) == base
    engine.remove(first)
    first, again, other = (engine.add(LORA, seed) for seed in (1, 1, 2))
    assert torch.equal(first.weights, again.weights)
    assert not torch.equal(first.weights, other.weights)
    assert engine.evaluate(first, rows).loss == base.loss
    stir(first)
    assert engine.evaluate(first, rows).loss != base.loss
    assert engine.evaluate(None, rows) == base
    for adapter in (first, again, other):
        engine.remove(adapter)
    assert engine.evaluate(None, rows) == base


def test_a_has_pefts_distribution(engine):
    adapter = engine.add(LoraSpec(rank=32, alpha=8), seed=1)
    for name, tensor in adapter.tensors().items():
        if name.endswith("lora_A.weight"):
            bound = 1 / tensor.shape[1] ** 0.5  # Kaiming uniform with a = sqrt(5)
            assert 0.9 * bound < tensor.abs().max() <= bound
        else:
            assert not tensor.any()


def test_rslora_scales_by_the_root_of_the_rank(engine, rows):
    plain, rooted = (
        engine.add(LoraSpec(rank=16, alpha=alpha, rslora=rs), 1) for alpha, rs in ((16, 0), (4, 1))
    )
    stir(plain)
    stir(rooted)
    assert engine.evaluate(plain, rows).loss == pytest.approx(engine.evaluate(rooted, rows).loss, rel=1e-6)


def test_targets_are_all_linear_layers_or_those_named(engine):
    everything = engine.add(LORA, 1)
    assert everything.targets == tuple(
        sorted(["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"])
    )
    assert len(everything.parts) == 2 * 7 * 2
    some = engine.add(LoraSpec(rank=4, alpha=8, targets=("v_proj", "q_proj")), 1)
    assert some.targets == ("q_proj", "v_proj")
    assert len(some.parts) == 2 * 2 * 2
    with pytest.raises(InvalidRequest) as caught:
        engine.add(LoraSpec(targets=("q_proj", "c_attn", "lm_head")), 1)
    assert caught.value.code == "unknown_target"
    assert "c_attn, lm_head" in caught.value.message
    assert "v_proj" in caught.value.fix


def test_logprobs_are_those_of_the_loss(engine, rows):
    row = rows[0]
    start = row.labels.index(True)
    given = engine.logprobs(None, row.tokens, start)
    assert len(given) == len(row.tokens) - start
    wanted = [value for value, on in zip(given, row.labels[start:], strict=True) if on]
    assert -sum(wanted) == pytest.approx(engine.evaluate(None, [row]).loss, rel=1e-5)


def test_recomputed_activations_give_the_same_gradient(engine, rows):
    adapter = engine.add(LoraSpec(rank=4, alpha=8, dropout=0.2), seed=1)
    stir(adapter)
    held, gradient = step(engine, adapter, [rows])
    recompute_activations(engine.model)
    again, recomputed = step(engine, adapter, [rows])
    assert again == held
    assert torch.allclose(gradient, recomputed, atol=1e-7)


class Crowded(SoloEngine):
    """An engine whose device is full a given number of times."""

    full = 0

    def _loss(self, rows):
        if self.full:
            self.full -= 1
            raise torch.OutOfMemoryError("CUDA out of memory")
        return super()._loss(rows)


def test_out_of_memory_recomputes_then_fails_that_work_alone(base, rows):
    engine = Crowded.load(base, torch.device("cpu"))
    first, second = engine.add(LORA, 1), engine.add(LORA, 2)
    stir(first)
    stir(second)
    wanted, gradient = step(engine, first, [rows])
    engine.full = 1
    again, retried = step(engine, first, [rows])
    assert again == wanted
    assert torch.allclose(gradient, retried, atol=1e-7)
    engine.full = 1
    failed, fine = engine.forward_backward([Work(first, [rows], 1), Work(second, [rows], 1)])
    assert isinstance(failed, TrainingError)
    assert failed.code == "out_of_memory"
    assert isinstance(fine, Sums)


def test_a_family_that_caps_its_logits_is_refused():
    config = Gemma2Config(
        vocab_size=64,
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=8,
        final_logit_softcapping=0.01,
        attn_implementation="eager",
    )
    with pytest.raises(TrainingError) as caught:
        SoloEngine(Gemma2ForCausalLM(config).eval())
    assert caught.value.code == "unsupported_model"


def test_a_folder_without_a_model_is_refused(tmp_path):
    with pytest.raises(TrainingError) as caught:
        SoloEngine.load(tmp_path, torch.device("cpu"))
    assert caught.value.code == "base_unusable"


class Squares:
    """Half the mean square of the scores: an objective whose slopes depend on them."""

    rows_per_example = 1

    def __init__(self, examples):
        self.examples, self.seen = examples, []

    def slopes(self, scores, rows, first):
        self.seen.append((first, len(rows)))
        return Slopes((scores**2 / 2).sum(), scores / self.examples, {"score": scores.sum()})


def test_any_objective_gets_scores_and_gives_slopes(engine, rows):
    adapter = engine.add(LORA, seed=1)
    stir(adapter)
    sums, gradient = step(engine, adapter, [rows[:2], rows[2:]], objective=(squares := Squares(6)))
    assert squares.seen == [(0, 2), (2, 4)]
    scores = engine.scores(adapter, rows)
    assert sums.extra["score"] == pytest.approx(sum(scores), rel=1e-5)
    assert sums.mean_loss == pytest.approx(sum(s * s / 2 for s in scores) / 6, rel=1e-5)
    assert (sums.examples, sums.tokens) == (6, sum(row.labelled for row in rows))
    wanted = torch.zeros_like(gradient)
    for row, score in zip(rows, scores, strict=True):  # d(s^2/2) = s ds, and ds = -labelled * d(mean loss)
        wanted -= score / 6 * row.labelled * step(engine, adapter, [[row]])[1]
    assert torch.allclose(gradient, wanted, rtol=1e-4, atol=1e-3)


def test_scores_are_the_negative_loss(engine, rows):
    given = engine.scores(None, rows)
    assert -sum(given) == pytest.approx(engine.evaluate(None, rows).loss, rel=1e-5)
    assert given[3] == pytest.approx(engine.scores(None, rows[3:4])[0], rel=1e-5)


def test_noise_on_the_embeddings_follows_the_seed(engine, rows):
    adapter = engine.add(LORA, seed=1)
    quiet = step(engine, adapter, [rows])[0].loss
    noisy = [step(engine, adapter, [rows], seed, noise=5.0)[0].loss for seed in (1, 1, 2)]
    assert noisy[0] == noisy[1] != noisy[2]
    assert quiet not in noisy
    assert step(engine, adapter, [rows])[0].loss == quiet
