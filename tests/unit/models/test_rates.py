"""The table of automatic rates: by size, by length of the run, by method, with LoRA+; and what says why."""

from dataclasses import replace

import pytest

from graftwork.core.specs import Hyperparameters, LoraSpec, TrainingOptions
from graftwork.models import Catalogue, DataSize, choose
from graftwork.models.rates import METHOD_RATES, SEEDLING_RATE, capacity, lora_rate, rate_of

CATALOGUE = Catalogue()
SMALL, LARGE = CATALOGUE.get("Qwen/Qwen3-0.6B"), CATALOGUE.get("Qwen/Qwen3-8B")
LLAMA = replace(LARGE.shape, family="llama")


@pytest.mark.parametrize(
    ("shape", "rate"),
    [
        (SMALL.shape, 5.3e-4),
        (CATALOGUE.get("Qwen/Qwen3-1.7B").shape, 5e-4),
        (CATALOGUE.get("Qwen/Qwen3-4B").shape, 4.9e-4),
        (LARGE.shape, 4.7e-4),
        (LLAMA, 2.9e-4),
        (replace(LLAMA, hidden=8192), 1.7e-4),
        (replace(LLAMA, family="nobody-fitted"), 2.9e-4),
    ],
)
def test_the_rate_falls_with_the_width_as_its_family_does(shape, rate):
    assert lora_rate(shape)[0] == rate


@pytest.mark.parametrize(
    ("method", "steps", "rate"),
    [
        ("sft", 300, 4.7e-4),
        ("sft", 101, 4.7e-4),
        ("sft", 100, 7.1e-4),
        ("sft", 10, 7.1e-4),
        ("dpo", 300, 2.4e-5),
        ("kto", 300, 2.4e-5),
        ("orpo", 300, 1.2e-4),
        ("cpt", 300, 1.2e-4),
        ("cpt", 50, 1.8e-4),
    ],
)
def test_rates_by_method_and_length(method, steps, rate):
    found = rate_of(LARGE, method, steps)
    assert found.value == pytest.approx(rate, rel=0.03)
    assert ("half as much again" in found.why) == (steps <= 100)
    assert METHOD_RATES[method].why in found.why


def test_preference_shares_are_those_of_trls_defaults():
    trl = pytest.importorskip("trl", reason="needs trl, of requirements/dev.txt")
    default = {
        name: cls.__dataclass_fields__["learning_rate"].default
        for name, cls in (("sft", trl.SFTConfig), ("dpo", trl.DPOConfig), ("kto", trl.KTOConfig))
    }
    for method in ("dpo", "kto"):
        assert METHOD_RATES[method].share == pytest.approx(default[method] / default["sft"])


def test_a_rate_that_was_tried_is_not_stretched_for_short_runs():
    seedling = CATALOGUE.get("seedling")
    assert rate_of(seedling, "sft", 10).value == SEEDLING_RATE
    assert rate_of(seedling, "dpo", 10).value == pytest.approx(SEEDLING_RATE / 20)


def test_lora_plus_keeps_the_product_of_both_rates():
    plain, plus = rate_of(LARGE, "sft", 300), rate_of(LARGE, "sft", 300, lora_plus=16)
    assert plus.value * (plus.value * 16) == pytest.approx(plain.value**2, rel=0.05)
    assert "LoRA+" in plus.why and rate_of(LARGE, "sft", 300, lora_plus=1).value == plain.value


def test_the_rate_does_not_depend_on_the_rank_but_the_capacity_does():
    size = DataSize(rows=2000, tokens=2_000_000, labelled=1_500_000, longest=1000)
    few, many = (
        choose(Hyperparameters(), TrainingOptions(lora=LoraSpec(rank=rank)), SMALL, size) for rank in (1, 64)
    )
    assert few.learning_rate == many.learning_rate
    assert "higher rank" in few.explained["rank"] and "higher rank" not in many.explained["rank"]


def test_capacity_is_said_in_numbers():
    assert capacity(4_000_000, 1000, LoraSpec(rank=4)).startswith("4: 4,000,000 weights hold about 1.0 MB")


@pytest.mark.parametrize(("method", "most"), [("sft", 10), ("dpo", 3), ("orpo", 5), ("kto", 3), ("cpt", 3)])
def test_methods_repeat_their_rows_so_often_at_most(method, most):
    size = DataSize(rows=50, tokens=3000, labelled=1000, longest=100)
    schedule = choose(Hyperparameters(), TrainingOptions(), SMALL, size, method)
    assert schedule.n_epochs == most
    assert f"between 1 and {most} epochs" in schedule.explained["n_epochs"]


def test_options_of_the_optimizer_reach_the_schedule():
    size = DataSize(rows=50, tokens=3000, labelled=1000, longest=100)
    options = TrainingOptions(lora_plus=4, neftune_alpha=5)
    schedule = choose(Hyperparameters(), options, SMALL, size)
    assert (schedule.lora_plus, schedule.neftune_alpha) == (4, 5)
    assert "LoRA+" in schedule.explained["learning_rate"]
