"""Whole runs by every method of the native trainer: preferences, texts, continued adapters, variants."""

import math

import pytest
import torch
from faketime import FakeTime
from peft import PeftModel
from tinyruns import (
    adapter_files,
    curve,
    make_pairs,
    make_trainer,
    result,
    start_of,
    tensors,
    train,
)
from tinytraining import make_rows, make_run, make_spec
from transformers import AutoModelForCausalLM

from graftwork.core.errors import InvalidRequest
from graftwork.core.specs import LoraSpec, PreferenceOptions
from graftwork.core.states import Outcome
from graftwork.models import Catalogue, base_ref
from graftwork.runs.documents import Message
from graftwork.runs.reader import RunReader
from graftwork.runs.transport import LocalTransport
from graftwork.training.attempt import Attempt, StopSignal
from graftwork.training.base import open_base
from graftwork.training.packed.engine import PackedEngine
from graftwork.training.session import Session
from graftwork.training.solo import SoloEngine

PLAIN = LoraSpec(rank=4, alpha=8)


def dpo(folder, rows=12, **changes):
    asked = {
        "method": "dpo",
        "preference": PreferenceOptions(),
        "lora": PLAIN,
        "n_epochs": 4,
        "eval_every": 4,
    }
    return make_run(folder, make_pairs(rows), make_pairs(8, seed=5), **{**asked, **changes})


def test_dpo_learns_to_prefer_and_says_so(base, renderer, tmp_path):
    uri = dpo(tmp_path / "run")
    train(uri, base, renderer)
    done, steps = result(uri), curve(uri)
    assert done.outcome is Outcome.SUCCEEDED
    first, last = steps[1]["extra"], steps[12]["extra"]
    assert steps[1]["loss"] == pytest.approx(math.log(2), abs=1e-6)
    assert first["rewards/margins"] == pytest.approx(0, abs=1e-6)  # so its accuracy is that of rounding
    assert last["rewards/margins"] > 0.1
    assert last["rewards/margins"] == pytest.approx(last["rewards/chosen"] - last["rewards/rejected"])
    assert last["eval_rewards/accuracies"] == 1.0
    assert last["eval_logps/accuracies"] > steps[4]["extra"]["eval_logps/accuracies"] - 1e-9
    assert done.base_valid_loss == pytest.approx(math.log(2))
    assert done.extra["eval_rewards/accuracies"] == 1.0
    assert 0 <= done.extra["base_logps/accuracies"] <= 1
    assert done.valid_loss is not None and done.valid_loss < done.base_valid_loss
    assert steps[12]["train_accuracy"] is None, "half of the tokens are not to be chosen"
    assert set(curve(uri)[2]["extra"]) == {key for key in last if not key.startswith("eval_")}


def test_a_lost_dpo_run_resumes_to_the_same_curve_bit_for_bit(base, renderer, tmp_path):
    asked = {"checkpoint_every": 3, "accumulation": 2}
    whole, broken = dpo(tmp_path / "whole", **asked), dpo(tmp_path / "broken", **asked)
    train(whole, base, renderer)
    train(broken, base, renderer, turns=5)
    train(broken, base, renderer)
    assert curve(broken, 2) == {step: m for step, m in curve(whole).items() if step > 3}
    one, two = tensors(whole), tensors(broken, 2)
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_accumulation_does_not_change_what_dpo_learns(base, renderer, tmp_path):
    one, two = dpo(tmp_path / "one"), dpo(tmp_path / "two", accumulation=2)
    for uri in (one, two):
        train(uri, base, renderer)
    losses = [[step["loss"] for step in curve(uri).values()] for uri in (one, two)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_texts_are_learnt_in_windows(base, renderer, tmp_path):
    text = {"text": " ".join(row["messages"][0]["content"] for row in make_rows(40))}
    uri = make_run(tmp_path / "run", [text], method="cpt", max_length=32, n_epochs=3)
    train(uri, base, renderer)
    steps = curve(uri)
    length = len(renderer.encode(text).tokens)
    windows = -(-(length - 1) // 31)
    assert len(steps) == 3 * -(-windows // 4)
    assert result(uri).tokens == 3 * (length + windows - 1)
    assert steps[len(steps)]["loss"] < steps[1]["loss"]


def test_a_run_goes_on_from_an_adapter(base, renderer, tmp_path):
    first = make_run(tmp_path / "first", lora=PLAIN, n_epochs=3)
    train(first, base, renderer)
    start, files = start_of(adapter_files(first))
    second = make_run(
        tmp_path / "second", lora=PLAIN, start=start, start_files=files, learning_rate=0.0, n_epochs=1
    )
    train(second, base, renderer)
    before, after = tensors(first), tensors(second)
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert curve(second)[1]["loss"] < curve(first)[1]["loss"] - 1


def test_dpo_that_goes_on_is_held_to_what_it_began_with(base, renderer, tmp_path):
    first = make_run(tmp_path / "first", lora=PLAIN)
    train(first, base, renderer)
    start, files = start_of(adapter_files(first))
    asked = {"start": start, "start_files": files, "checkpoint_every": 3}
    whole, broken = dpo(tmp_path / "whole", **asked), dpo(tmp_path / "broken", **asked)
    train(whole, base, renderer)
    assert curve(whole)[1]["loss"] == pytest.approx(math.log(2), abs=1e-6)
    train(broken, base, renderer, turns=5)
    train(broken, base, renderer)
    assert curve(broken, 2) == {step: m for step, m in curve(whole).items() if step > 3}


@pytest.mark.parametrize(
    ("lora", "what"),
    [
        (LoraSpec(rank=2, alpha=8), "r is 4"),
        (LoraSpec(rank=4, alpha=16), "lora_alpha is 8"),
        (LoraSpec(rank=4, alpha=8, targets=("q_proj",)), "target_modules is"),
        (LoraSpec(rank=4, alpha=8, rslora=True), "use_rslora is"),
    ],
)
def test_an_adapter_of_another_shape_cannot_be_continued(base, renderer, tmp_path, lora, what):
    first = make_run(tmp_path / "first", lora=PLAIN, n_epochs=1)
    train(first, base, renderer)
    start, files = start_of(adapter_files(first))
    second = make_run(tmp_path / "second", lora=lora, start=start, start_files=files)
    train(second, base, renderer)
    error = result(second).error
    assert error is not None
    assert (error.code, error.kind, error.param) == ("start_mismatch", "user", "graftwork.lora")
    assert what in error.message


def test_who_cannot_come_aboard_leaves_no_adapter_on_the_engine(base, renderer, tmp_path):
    class Counting(PackedEngine):
        aboard = 0

        def add(self, lora, seed):
            self.aboard += 1
            return super().add(lora, seed)

        def remove(self, adapter):
            self.aboard -= 1
            super().remove(adapter)

    first = make_run(tmp_path / "first", lora=PLAIN, n_epochs=1)
    train(first, base, renderer)
    start, files = start_of(adapter_files(first))
    second = make_run(tmp_path / "second", lora=LoraSpec(rank=2, alpha=8), start=start, start_files=files)
    engine = Counting.load(base, torch.device("cpu"))
    attempt = Attempt.open(second, FakeTime(tick=0.001).clocks, StopSignal())
    with pytest.raises(InvalidRequest, match="cannot be continued"):
        Session(attempt, engine, renderer)
    assert engine.aboard == 0


def test_lora_plus_moves_b_faster(base, renderer, tmp_path):
    runs = [
        make_run(tmp_path / str(ratio), lora=PLAIN, lora_plus=ratio, learning_rate=0.001)
        for ratio in (None, 1.0, 8.0)
    ]
    for uri in runs:
        train(uri, base, renderer)
    losses = [[step["loss"] for step in curve(uri).values()] for uri in runs]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    assert losses[2][-1] < losses[0][-1] - 0.05


def test_noise_on_embeddings_follows_from_the_seed(base, renderer, tmp_path):
    runs = [make_run(tmp_path / str(n), neftune_alpha=alpha) for n, alpha in enumerate((None, 5.0, 5.0))]
    for uri in runs:
        train(uri, base, renderer)
    plain, one, two = (curve(uri) for uri in runs)
    assert one == two
    assert one != plain


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")  # PEFT asks
def test_dora_trains_resumes_and_loads_in_peft(base, renderer, tmp_path):
    asked = {"lora": LoraSpec(rank=4, alpha=8, dora=True), "checkpoint_every": 3}
    whole, broken = (make_run(tmp_path / name, **asked) for name in ("whole", "broken"))
    train(whole, base, renderer)
    train(broken, base, renderer, turns=5)
    train(broken, base, renderer)
    assert curve(broken, 2) == {step: m for step, m in curve(whole).items() if step > 3}
    assert curve(whole)[10]["loss"] < curve(whole)[1]["loss"]
    names = [name for name in tensors(whole) if name.endswith("lora_magnitude_vector")]
    assert len(names) == 14
    plain = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), adapter_files(whole)).eval()
    probe = result(whole).probes[0]
    with torch.no_grad():
        table = plain(input_ids=torch.tensor([probe.tokens])).logits[0].log_softmax(-1)
    wanted = [table[at - 1, probe.tokens[at]].item() for at in range(probe.start, len(probe.tokens))]
    assert probe.logprobs == pytest.approx(wanted, abs=1e-4)
    assert probe.logprobs != pytest.approx(probe.base_logprobs, abs=1e-2)


@pytest.mark.parametrize(("dora", "kind"), [(True, SoloEngine), (False, PackedEngine)])
def test_dora_gets_an_engine_that_can(dora, kind):
    spec = make_spec(b"", base=base_ref(Catalogue().get("seedling")), lora=LoraSpec(dora=dora))
    assert type(open_base(spec)[0]) is kind


@pytest.mark.parametrize("first", [True, False])
def test_dora_trains_alone(base, renderer, tmp_path, first):
    runs = [
        make_run(tmp_path / str(dora), lora=LoraSpec(rank=4, alpha=8, dora=dora))
        for dora in (first, not first)
    ]
    trainer = make_trainer(base, renderer)
    for uri in runs:
        trainer.join(uri)
    trainer.run()
    assert result(runs[0]).outcome is Outcome.SUCCEEDED
    error = result(runs[1]).error
    assert error is not None and (error.code, error.kind) == ("needs_own_trainer", "platform")


@pytest.mark.parametrize("method", ["orpo", "kto"])
def test_the_native_trainer_leaves_other_methods_to_others(base, renderer, tmp_path, method):
    uri = make_run(tmp_path / "run", make_pairs(8), method=method)
    train(uri, base, renderer)
    error = result(uri).error
    assert error is not None and error.code == "method_needs_trainer"


def test_pairs_that_lose_an_answer_to_the_limit_are_left_out(base, renderer, tmp_path):
    rows = make_pairs(8)
    rows[2]["preferred_output"][0]["content"] = "red"
    rows[2]["input"]["messages"][0]["content"] = "cat " * 100
    uri = make_run(tmp_path / "run", rows, method="dpo", max_length=64, n_epochs=1)
    train(uri, base, renderer)
    said = [e.message for e in RunReader(LocalTransport(uri)).events(1)[0] if isinstance(e, Message)]
    assert any("Training on 7 pairs" in line for line in said)
