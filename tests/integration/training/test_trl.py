"""TRL's trainers on run folders: a session's whole life around TRL's own steps."""

import math

import pytest
import torch
from faketime import FakeTime
from tinyruns import adapter_files, curve, make_pairs, pair, result, start_of, tensors
from tinytraining import make_rows, make_run

from graftwork.core.specs import LoraSpec, PreferenceOptions
from graftwork.core.states import Outcome, Want
from graftwork.data.rendering import Renderer
from graftwork.registry import require_adapter
from graftwork.runs.documents import Control
from graftwork.runs.folder import write_control
from graftwork.runs.reader import RunReader
from graftwork.runs.transport import LocalTransport
from graftwork.training.attempt import Attempt, StopSignal

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning", "ignore::UserWarning"),
]
PLAIN = LoraSpec(rank=4, alpha=8)


def feedback(rows):
    """Each pair as two rows of feedback."""
    return [
        {"input": row["input"], "output": row[key], "label": key == "preferred_output"}
        for row in rows
        for key in ("preferred_output", "non_preferred_output")
    ]


@pytest.fixture(scope="module")
def train(base):
    from graftwork.training.backends.trl.engine import PeftEngine
    from graftwork.training.backends.trl.run import train as run

    renderer = Renderer.load(base)

    def go(uri, stop=None):
        attempt = Attempt.open(uri, FakeTime(tick=0.001).clocks, stop or StopSignal())
        run(attempt, PeftEngine.load(base, torch.device("cpu")), renderer, base)

    return go


def make(folder, method, rows=16, **changes):
    held = make_pairs(8, seed=5)
    data = make_pairs(rows)
    if method in ("sft", "cpt"):
        data, held = make_rows(rows), make_rows(8, seed=9)
    asked = {
        "method": method,
        "trainer": "trl",
        "preference": None if method == "sft" else PreferenceOptions(beta=0.3),
        "lora": PLAIN,
        "n_epochs": 4,
        "eval_every": 4,
        "checkpoint_every": 4,
    }
    return make_run(folder, data, held, **{**asked, **changes})


@pytest.mark.parametrize("method", ["sft", "dpo", "orpo", "kto"])
def test_a_run_ends_with_a_better_adapter_and_a_full_account(train, tmp_path, method):
    uri = make(tmp_path / "run", method)
    train(uri)
    done, steps = result(uri), curve(uri)
    assert done.outcome is Outcome.SUCCEEDED
    assert list(steps) == list(range(1, done.total_steps + 1))
    assert all(math.isfinite(step["loss"]) and step["grad_norm"] > 0 for step in steps.values())
    assert done.valid_loss is not None and done.base_valid_loss is not None
    assert done.valid_loss < done.base_valid_loss
    assert done.probes and done.probes[0].logprobs != done.probes[0].base_logprobs
    require_adapter(adapter_files(uri))
    assert [m.step for _, m in RunReader(LocalTransport(uri)).checkpoints(1)] == list(
        range(4, done.total_steps + 1, 4)
    )
    assert not [name for name in LocalTransport(uri).list("") if name.endswith((".pt", ".bin", ".pth"))]
    if method != "sft":
        last = steps[done.total_steps]["extra"]
        assert last["eval_rewards/accuracies"] >= 0.75
        assert last["rewards/margins"] > 0


@pytest.mark.parametrize("method", ["dpo", "kto"])
def test_a_lost_run_goes_on_as_if_it_had_not_been(train, tmp_path, method):
    whole, broken = (make(tmp_path / name, method, n_epochs=2) for name in ("whole", "broken"))
    train(whole)
    train(broken)
    for name in ("result.json", "heartbeat.json"):  # lost behind its first checkpoint
        (tmp_path / "broken/attempts/1" / name).unlink()
    for found in (tmp_path / "broken/attempts/1/checkpoints").iterdir():
        if found.name != "step-000004":
            (found / "manifest.json").unlink()
    train(broken)
    assert list(curve(broken, 2)) == [step for step in curve(whole) if step > 4]
    for step, metrics in curve(broken, 2).items():
        assert metrics["loss"] == pytest.approx(curve(whole)[step]["loss"], rel=1e-4)
    one, two = tensors(whole), tensors(broken, 2)
    for name in one:
        assert torch.allclose(one[name], two[name], atol=1e-5)


def test_orders_are_obeyed_after_a_step(train, tmp_path):
    uri = make(tmp_path / "run", "orpo")
    stop = StopSignal(raised=True)
    train(uri, stop)
    assert (result(uri).outcome, result(uri).reason) == (Outcome.PAUSED, "signal")
    write_control(LocalTransport(uri), Control(want=Want.CANCEL, fence=2, lease_until=9e12, deadline=9e12))
    train(uri)
    assert result(uri, 2).outcome is Outcome.CANCELLED


def test_feedback_teaches_as_pairs_do(train, tmp_path):
    rows = feedback(make_pairs(12))
    uri = make_run(
        tmp_path / "run", rows, feedback(make_pairs(6, seed=5)), method="kto", trainer="trl", lora=PLAIN,
        preference=PreferenceOptions(beta=0.3), n_epochs=4, eval_every=4,
    )  # fmt: skip
    train(uri)
    assert curve(uri)[result(uri).total_steps]["extra"]["eval_rewards/accuracies"] >= 0.75


def test_a_run_goes_on_from_an_adapter_and_is_held_to_it(train, tmp_path):
    first = make(tmp_path / "first", "sft")
    train(first)
    start, files = start_of(adapter_files(first))
    second = make(tmp_path / "second", "dpo", start=start, start_files=files, n_epochs=1)
    train(second)
    assert curve(second)[1]["loss"] == pytest.approx(math.log(2), abs=1e-5)
    assert not torch.equal(*(next(iter(tensors(uri).values())) for uri in (first, second)))


def test_a_pair_of_one_word_is_a_pair(train, tmp_path):
    rows = [pair(f"cat {word}", "red", "blue") for word in ("dog", "bird", "fish", "horse")]
    uri = make_run(tmp_path / "run", rows, method="orpo", trainer="trl", lora=PLAIN, n_epochs=1, batch_size=2)
    train(uri)
    assert result(uri).outcome is Outcome.SUCCEEDED
