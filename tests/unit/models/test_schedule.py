"""Automatic choices: their rules, their limits, and that each is explained."""

from math import ceil

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graftwork.core.specs import Hyperparameters, LoraSpec, TrainingOptions
from graftwork.models import Catalogue, DataSize, choose, plan
from graftwork.models.planning import adapter_parameters
from graftwork.models.rates import rate_of

ENTRY = Catalogue().get("Qwen/Qwen3-0.6B")


def size(rows, longest=100, tokens=None):
    tokens = tokens or rows * 60
    return DataSize(rows=rows, tokens=tokens, labelled=tokens // 3, longest=longest)


def auto(rows, **options):
    return choose(Hyperparameters(), TrainingOptions(**options), ENTRY, size(rows))


@pytest.mark.parametrize(
    ("rows", "batch", "epochs"),
    [
        (10, 2, 10),
        (50, 8, 10),
        (400, 8, 6),
        (1000, 8, 2),
        (5000, 10, 1),
        (10_000, 20, 1),
        (1_000_000, 256, 1),
    ],
)
def test_batch_and_epochs_by_rows(rows, batch, epochs):
    schedule = auto(rows)
    assert (schedule.batch_size, schedule.n_epochs) == (batch, epochs)
    assert schedule.total_steps == epochs * ceil(rows / batch)


@settings(deadline=None)
@given(
    st.integers(1, 10**6),
    st.integers(1, 50) | st.just("auto"),
    st.integers(1, 256) | st.just("auto"),
    st.floats(0.01, 10) | st.just("auto"),
)
def test_every_choice_is_possible_and_explained(rows, epochs, batch, multiplier):
    asked = Hyperparameters(n_epochs=epochs, batch_size=batch, learning_rate_multiplier=multiplier)
    schedule = choose(asked, TrainingOptions(accumulation=4), ENTRY, size(rows))
    assert 1 <= schedule.accumulation <= schedule.batch_size <= rows
    assert 1 <= schedule.eval_every <= schedule.total_steps
    assert schedule.n_epochs == epochs or epochs == "auto"
    rate = rate_of(ENTRY, "sft", schedule.total_steps).value
    assert schedule.learning_rate == rate * schedule.learning_rate_multiplier
    assert set(schedule.explained) == {
        "batch_size", "n_epochs", "learning_rate_multiplier", "learning_rate", "eval_every",
        "checkpoint_every", "max_length", "total_steps", "rank",
    }  # fmt: skip
    assert all(schedule.explained.values())


def test_what_was_asked_is_done():
    asked = Hyperparameters(n_epochs=2, batch_size=16, learning_rate_multiplier=0.5)
    options = TrainingOptions(
        eval_every=7, checkpoint_every=9, early_stopping=3, max_length=64, decay="linear"
    )
    schedule = choose(asked, options, ENTRY, size(100))
    assert (schedule.n_epochs, schedule.batch_size, schedule.learning_rate_multiplier) == (2, 16, 0.5)
    assert (schedule.eval_every, schedule.checkpoint_every, schedule.early_stopping) == (7, 9, 3)
    assert (schedule.max_length, schedule.decay, schedule.total_steps) == (64, "linear", 14)
    assert schedule.explained["n_epochs"] == "asked: 2"
    assert "lose their end" in schedule.explained["max_length"]


def test_checkpoints_come_with_evaluations():
    schedule = auto(400)
    assert schedule.eval_every == schedule.checkpoint_every == 30


def test_length_is_the_least_of_row_context_and_wish():
    assert choose(Hyperparameters(), TrainingOptions(), ENTRY, size(10, longest=50)).max_length == 50
    assert (
        choose(Hyperparameters(), TrainingOptions(), ENTRY, size(10, longest=10**6)).max_length
        == ENTRY.context
    )
    assert (
        choose(Hyperparameters(), TrainingOptions(max_length=20), ENTRY, size(10, longest=50)).max_length
        == 20
    )


def test_a_longer_validation_row_keeps_its_answer():
    wide = DataSize(rows=10, tokens=600, labelled=200, longest=50, valid_rows=10, valid_longest=90)
    assert choose(Hyperparameters(), TrainingOptions(), ENTRY, wide).max_length == 90
    cut = choose(Hyperparameters(), TrainingOptions(max_length=60), ENTRY, wide)
    assert (cut.max_length, "up to 90" in cut.explained["max_length"]) == (60, True)


def test_adapter_size_counts_inputs_and_outputs():
    shape = ENTRY.shape
    one = adapter_parameters(shape, LoraSpec(rank=1, targets=("q_proj",)))
    assert one == 28 * (1024 + 16 * 128)
    assert adapter_parameters(shape, LoraSpec(rank=16, targets=("q_proj",))) == 16 * one
    # what PEFT reports for rank 16 on all linear layers of this model
    assert adapter_parameters(shape, LoraSpec(rank=16)) == 10_092_544


def test_the_plan_counts_tokens_price_and_memory():
    schedule = auto(400)
    given_size = size(400)
    plain = plan(ENTRY, schedule, LoraSpec(), given_size)
    assert plain.fits and plain.steps == schedule.total_steps
    assert plain.trained_tokens == 400 * 60 * 6
    assert plain.price == -(-plain.trained_tokens * ENTRY.prices.train // 10**6)
    assert plain.memory_bytes == sum(plain.memory.values())
    assert plain.memory["weights"] == ENTRY.parameters * 4
    assert (
        plan(ENTRY, schedule, LoraSpec(), given_size, device="gpu").memory["weights"] == ENTRY.parameters * 2
    )
    assert plain.to_json()["why"] == list(plain.why) and len(plain.why) == 4


def test_a_plan_that_does_not_fit_says_so():
    small = plan(ENTRY, auto(400), LoraSpec(), size(400), memory=1 << 30)
    assert not small.fits and "does not fit" in small.why[-1]
    assert plan(ENTRY, auto(400), LoraSpec(), size(400), memory=64 << 30).fits


def test_accumulation_saves_activations_only():
    many = plan(ENTRY, auto(400), LoraSpec(), size(400))
    few = plan(ENTRY, auto(400, accumulation=8), LoraSpec(), size(400))
    assert few.memory["activations"] * 8 == many.memory["activations"]
    assert few.memory["weights"] == many.memory["weights"]


def test_a_measured_rate_beats_the_assumption():
    measured = plan(ENTRY, auto(400), LoraSpec(), size(400), rate=1000.0)
    assert measured.seconds == pytest.approx(400 * 60 * 6 / 1000, abs=10)
    assert "measured" in measured.why[2]
    slow, fast = (plan(ENTRY, auto(400), LoraSpec(), size(400), cores=cores).seconds for cores in (1, 8))
    assert slow > 3 * fast
    assert plan(ENTRY, auto(400), LoraSpec(), size(400), device="gpu").seconds < fast
