"""The plan against what is published of known models, and its rules: quantization, company, machines."""

import pytest

from graftwork.core.specs import Hyperparameters, LoraSpec, TrainingOptions
from graftwork.models import Catalogue, DataSize, choose, plan
from graftwork.models.entry import Shape
from graftwork.models.memory import HELD_LOGITS, Load, profile
from graftwork.models.planning import Target, fit
from graftwork.models.steptime import Hardware, split_weights, step_seconds, together, weights_read

GB = 10**9
CATALOGUE = Catalogue()
QWEN8B = CATALOGUE.get("Qwen/Qwen3-8B")
SMALL = CATALOGUE.get("Qwen/Qwen3-0.6B")
H100 = Hardware(device="gpu", gpu="NVIDIA H100 80GB HBM3")


def shape(family, hidden, layers, wide, heads, kv, vocab, head_dim=128, experts=0, active=0):
    return Shape(
        family=family,
        hidden=hidden,
        layers=layers,
        intermediate=wide,
        heads=heads,
        kv_heads=kv,
        head_dim=head_dim,
        vocab=vocab,
        context=32_768,
        tied=False,
        experts=experts,
        active_experts=active,
    )


LLAMA8B = shape("llama", 4096, 32, 14336, 32, 8, 128_256)
MISTRAL7B = shape("mistral", 4096, 32, 14336, 32, 8, 32_000)
LLAMA70B = shape("llama", 8192, 80, 28672, 64, 8, 128_256)
MIXTURE30B = shape("qwen3_moe", 2048, 48, 768, 32, 4, 151_936, experts=128, active=8)


def peak(of, quantization="none", tokens=512, recompute=True, lora=None):
    load = Load(lora=lora or LoraSpec(), tokens=tokens, labelled=tokens // 3)
    return (
        sum(profile(of, [load], device="gpu", quantization=quantization, recompute=recompute).values()) / GB
    )


@pytest.mark.parametrize(
    ("of", "quantization", "low", "high"),
    [
        (QWEN8B.shape, "none", 16, 21),
        (LLAMA8B, "none", 16, 20.5),
        (MISTRAL7B, "none", 15, 19),
        (LLAMA8B, "nf4", 6, 9),
        (MISTRAL7B, "nf4", 5, 7.5),
        (MIXTURE30B, "none", 60, 68),
        (MIXTURE30B, "nf4", 16, 22),
        (LLAMA70B, "none", 140, 152),
        (LLAMA70B, "nf4", 38, 48),
    ],
)
def test_known_models_need_what_is_published_of_them(of, quantization, low, high):
    assert low < peak(of, quantization) < high


def test_full_rank_on_every_expert_is_what_was_counted_for_it():
    # gate and up are one stack, so rank 16 on all experts of 30B-A3B is 629 M weights, 10 GB with Adam
    lora = LoraSpec(rank=16, expert_rank=16, targets=("experts",))
    load = Load(lora=lora, tokens=0, labelled=0)
    assert profile(MIXTURE30B, [load], device="gpu")["adapter"] == pytest.approx(10.07e9, rel=0.01)
    less = Load(lora=LoraSpec(rank=16), tokens=0, labelled=0)
    assert profile(MIXTURE30B, [less], device="gpu")["adapter"] < 2.2 * GB


def test_the_base_is_there_once_and_each_run_brings_its_own():
    one = Load(lora=LoraSpec(), tokens=512, labelled=100)
    alone, eight = (profile(SMALL.shape, [one] * runs, device="gpu") for runs in (1, 8))
    assert eight["weights"] == alone["weights"] and eight["runtime"] == alone["runtime"]
    assert eight["adapter"] == 8 * alone["adapter"]
    assert eight["activations"] == pytest.approx(8 * alone["activations"])


def test_preference_pairs_are_two_sequences_and_trl_holds_their_logits():
    size = DataSize(rows=400, tokens=400 * 100, labelled=400 * 40, longest=200)
    schedule = choose(Hyperparameters(batch_size=8), TrainingOptions(), SMALL, size, "dpo")
    single = plan(SMALL, schedule, LoraSpec(), size)
    pairs = plan(SMALL, schedule, LoraSpec(), size, method="dpo")
    assert pairs.memory["activations"] == 2 * single.memory["activations"]
    assert pairs.memory["logits"] <= HELD_LOGITS * 4 * 3
    assert plan(SMALL, schedule, LoraSpec(), size, method="dpo", trainer="trl").memory["logits"] > 3 * GB


def room(gib):
    return Target(
        name="one H100", memory=int(gib * 2**30), device="gpu", gpu="H100", price_per_hour=2_500_000
    )


def planned(target, entry=QWEN8B, lora=None, **options):
    size = DataSize(rows=2000, tokens=2000 * 1000, labelled=2000 * 400, longest=2048)
    schedule = choose(Hyperparameters(), TrainingOptions(), entry, size)
    return plan(entry, schedule, lora or LoraSpec(), size, target=target, **options)


def test_activations_are_recomputed_only_where_that_makes_it_fit():
    wide, tight, small = planned(room(140)), planned(room(40)), planned(room(20))
    assert (wide.fits, wide.recompute) == (True, False)
    assert (tight.fits, tight.recompute) == (True, True)
    assert tight.memory["activations"] < wide.memory["activations"] / 5
    assert any("recomputed" in line for line in tight.why)
    assert tight.seconds > wide.seconds
    assert (small.fits, small.recompute) == (False, False)
    assert "quantization nf4" in small.why[-1] and planned(room(20), quantization="nf4").fits


def test_a_plan_says_fits_how_long_what_cost_on_what_and_why():
    found = planned(room(80))
    assert found.fits and found.machine == "one H100" and 100 < found.seconds < 3600
    assert found.machine_cost == pytest.approx(2_500_000 * found.seconds / 3600, rel=0.01)
    text = "\n".join(found.why)
    for word in ("Memory:", "Tokens:", "Time:", "Price:", "Machine: one H100 at $2.50 an hour"):
        assert word in text
    assert found.to_json()["machine_cost"] == found.machine_cost


def fitted(targets, entry=QWEN8B, **options):
    size = DataSize(rows=2000, tokens=2000 * 1000, labelled=2000 * 400, longest=2048)
    schedule = choose(Hyperparameters(), TrainingOptions(), entry, size)
    return fit(entry, schedule, LoraSpec(), size, targets, **options)


def test_the_first_machine_that_it_fits_on_is_taken():
    found = fitted([room(16), room(40), room(80)])
    assert found.target == room(40) and found.plan.fits and not found.plan.recompute
    assert fitted([]).target is None and fitted([]).plan.fits


def test_steps_are_split_before_the_base_is_packed():
    split = fitted([room(20)])
    assert split.schedule.accumulation > 1 and split.plan.quantization == "none"
    assert "into the machine's memory" in split.schedule.explained["accumulation"]
    packed = fitted([room(12)])
    assert packed.plan.fits and packed.plan.quantization == "nf4"
    assert "4 bits" in packed.schedule.explained["quantization"]
    assert not fitted([room(12)], quantization="none").plan.fits


def test_nothing_is_packed_on_a_cpu():
    host = Target(memory=20 * 2**30)
    found = fitted([host])
    assert (found.plan.fits, found.plan.quantization) == (False, "none")


def test_what_was_asked_for_is_packed_on_a_cpu_too():
    found = fitted([Target(memory=64 * 2**30)], quantization="nf4")
    assert (found.plan.fits, found.plan.quantization) == (True, "nf4")
    assert "quantization" not in found.schedule.explained


def test_company_is_planned_with_one_base_and_said():
    other = Load(lora=LoraSpec(rank=8), tokens=256, labelled=80)
    alone, company = planned(room(140)), planned(room(140), neighbours=[other] * 3)
    assert company.runs == 4 and company.memory["weights"] == alone.memory["weights"]
    assert company.memory["adapter"] > alone.memory["adapter"]
    assert "4 runs" in company.why[-1]


@pytest.mark.parametrize(
    ("tokens", "entry", "low"),
    [(128, SMALL.shape, 6), (128, QWEN8B.shape, 1.8), (128, MIXTURE30B, 4), (1024, MIXTURE30B, 2)],
)
def test_together_pays_for_small_models_short_rows_and_mixtures(tokens, entry, low):
    load = Load(lora=LoraSpec(), tokens=tokens, labelled=tokens // 3)
    assert together(entry, [load] * 8, H100).gain > low


def test_together_hardly_pays_where_one_run_fills_the_gpu():
    load = Load(lora=LoraSpec(), tokens=16_384, labelled=4096)
    found = together(QWEN8B.shape, [load] * 8, H100)
    assert found.gain == pytest.approx(1, abs=0.1) and "hardly" in found.why


def test_four_bits_cost_less_a_run_with_company():
    load = Load(lora=LoraSpec(), tokens=128, labelled=40)
    packed = together(QWEN8B.shape, [load] * 8, H100, quantization="nf4")
    plain = together(QWEN8B.shape, [load] * 8, H100)
    assert packed.gain > plain.gain + 1
    alone = step_seconds(QWEN8B.shape, [load], H100, quantization="nf4")
    assert alone > step_seconds(QWEN8B.shape, [load], H100)


def test_a_mixture_reads_only_the_experts_it_meets():
    dense, experts = split_weights(MIXTURE30B)
    assert experts == pytest.approx(48 * 128 * 3 * 2048 * 768)
    assert dense + experts == pytest.approx(MIXTURE30B.block_parameters)
    assert weights_read(MIXTURE30B, 1) < weights_read(MIXTURE30B, 64) < weights_read(MIXTURE30B, 10**4)
    assert weights_read(MIXTURE30B, 1) < weights_read(MIXTURE30B, 10**4) / 8


def test_faster_cards_are_faster_and_unknown_ones_modest():
    load = Load(lora=LoraSpec(), tokens=8192, labelled=2048)
    cards = ("B200", "H100 SXM", "A100-SXM4-80GB", "NVIDIA L4", "Tesla T4")
    times = [step_seconds(QWEN8B.shape, [load], Hardware(device="gpu", gpu=name)) for name in cards]
    assert times == sorted(times)
    assert step_seconds(QWEN8B.shape, [load], Hardware(device="gpu", gpu="Whatever 9000")) > times[2]
