"""Runs by a tool's command, with a tool that learns nothing: to the end, and to every other end."""

import json
import os
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tinytraining import make_rows, make_run

from graftwork.core.errors import GraftworkError, InvalidRequest, PlatformError, TrainingError
from graftwork.core.specs import BaseRef, LoraSpec
from graftwork.core.states import Outcome, Want
from graftwork.models.folder import revision_of
from graftwork.runs.documents import Control, Metrics
from graftwork.runs.folder import write_control
from graftwork.runs.reader import RunReader
from graftwork.runs.transport import LocalTransport
from graftwork.training.attempt import Attempt, StopSignal, Time
from graftwork.training.backends.command import CommandBackend, Recipe
from graftwork.training.backends.command.bring_back import bring_back
from graftwork.training.backends.command.events import Lines, parse
from graftwork.training.backends.command.process import environment_of
from graftwork.training.backends.command.recipe import write_rows
from graftwork.training.export import CONFIG, WEIGHTS
from graftwork.training.solo import SoloEngine

TOOL = Path(__file__).parents[3] / "support" / "faketool.py"
PEFT = {"r": 2, "lora_alpha": 4, "peft_type": "LORA", "target_modules": ["q_proj"]}
LORA = LoraSpec(rank=2, alpha=4, targets=("q_proj",))
SHAPES = {
    f"base_model.model.model.layers.{layer}.self_attn.q_proj.lora_{kind}.weight": shape
    for layer in range(2)
    for kind, shape in (("A", [2, 32]), ("B", [32, 2]))
}


def tool(**said):
    """A recipe that runs the fake tool as ``said``."""

    def config(spec, place):
        return {
            "steps": place.total_steps,
            "every": spec.schedule.checkpoint_every,
            "out": str(place.out),
            "shapes": SHAPES,
            "peft": PEFT,
            "resume": place.resume and str(place.resume),
            **said,
        }

    return Recipe("llamafactory", TOOL, config)


class House:
    """A run folder for the tool, and looks into it."""

    def __init__(self, base, folder, valid=None, lora=LORA, **schedule):
        reference = BaseRef(name="tiny", repository=str(base), revision=revision_of(base))
        asked = {"n_epochs": 2, "checkpoint_every": 4, "lora": lora, "base": reference, **schedule}
        self.uri = make_run(folder / "run", make_rows(16), valid, trainer="llamafactory", **asked)
        self.reader = RunReader(LocalTransport(folder / "run"))
        self.stop = StopSignal()

    def order(self, fence, want=Want.RUN):
        later = time.time() + 3600
        control = Control(want=want, fence=fence, lease_until=later, deadline=later)
        write_control(LocalTransport(self.uri), control)

    def run(self, sleep=time.sleep, environment=None, **said):
        attempt = Attempt.open(self.uri, Time(), self.stop)
        found = {"GRAFTWORK_TRAINER_LLAMAFACTORY": sys.executable, "PATH": os.environ["PATH"]}
        backend = CommandBackend(
            tool(**said), found if environment is None else environment, sleep, lambda python: ("cpu", 1)
        )
        backend.run(attempt)
        return self.reader.result(attempt.fence)

    def steps(self, fence=1):
        return [event for event in self.reader.events(fence)[0] if isinstance(event, Metrics)]


def when(house, seen, act):
    """A wait that acts once ``seen`` steps were reported."""

    def sleep(seconds):
        if len(house.steps()) >= seen:
            act()
        time.sleep(0.02)

    return sleep


@pytest.fixture
def house(base, tmp_path):
    return House(base, tmp_path)


def test_a_tool_trains_to_the_end_and_its_best_adapter_comes_home(base, tmp_path):
    house = House(base, tmp_path, valid=make_rows(4, 9))
    result = house.run()
    assert (result.outcome, result.step, result.total_steps) == (Outcome.SUCCEEDED, 8, 8)
    assert [metrics.step for metrics in house.steps()] == list(range(1, 9))
    assert house.steps()[-1].tokens == result.tokens and result.train_loss == 5.0 / 8
    assert [m.step for _, m in house.reader.checkpoints(1)] == [4, 8]
    assert result.best_step in (4, 8) and result.base_valid_loss is not None
    folder = tmp_path / "run" / result.adapter.dir
    config = json.loads((folder / CONFIG).read_text())
    assert config["r"] == 2 and config["target_modules"] == ["q_proj"]
    assert str(tmp_path) not in json.dumps(config)
    engine = SoloEngine.load(base)
    adapter = engine.add(LORA, 1)
    for name, view in adapter.tensors().items():
        view.copy_(load_file(folder / WEIGHTS)[name])
    probe = result.probes[0]
    assert engine.logprobs(adapter, probe.tokens, probe.start) == pytest.approx(probe.logprobs, abs=1e-5)
    assert "the tool speaks" in house.reader.log(1)[0]
    assert result.machine["trainer"] == "llamafactory"


def test_a_cancelled_tool_is_killed_with_all_it_started(house, tmp_path):
    house.order(1)
    child = tmp_path / "child"
    result = house.run(
        when(house, 1, lambda: house.order(1, Want.CANCEL)), pause=0.3, steps=10_000, child=str(child)
    )
    assert result.outcome is Outcome.CANCELLED
    gone = Path(f"/proc/{child.read_text()}/stat")
    assert not gone.exists() or gone.read_text().split()[2] == "Z"


def test_a_paused_tool_saves_and_the_next_attempt_goes_on(house):
    house.order(1)
    paused = house.run(when(house, 2, house.stop.raise_it), pause=0.2)
    assert (paused.outcome, paused.reason) == (Outcome.PAUSED, "signal")
    assert 0 < paused.step < 8
    house.stop.raised = False
    house.order(2)
    result = house.run()
    assert (result.outcome, result.step) == (Outcome.SUCCEEDED, 8)
    assert [metrics.step for metrics in house.steps(2)] == list(range(paused.step + 1, 9))


def test_another_attempt_has_the_run_not_a_word_more(house):
    house.order(1)
    assert house.run(when(house, 1, lambda: house.order(2)), pause=0.2, steps=10_000) is None


@pytest.mark.parametrize(
    ("said", "code", "words"),
    [
        ({"die_at": 2}, "trainer_failed", "RuntimeError: it went wrong"),
        ({"nan": True}, "adapter_not_finite", "not numbers"),
        ({"peft": {**PEFT, "r": 3}}, "adapter_differs", "its r is 3, not 2"),
        ({"peft": {**PEFT, "modules_to_save": ["lm_head"]}}, "adapter_differs", "modules_to_save"),
        ({"shapes": {**SHAPES, "base_model.model.lm_head.weight": [2, 2]}}, "adapter_differs", "lm_head"),
        (
            {"shapes": {name.replace("layers.1", "layers.7"): shape for name, shape in SHAPES.items()}},
            "adapter_differs",
            "does not fit the base model",
        ),
    ],
)
def test_what_goes_wrong_is_said(house, said, code, words):
    with pytest.raises(TrainingError) as caught:
        house.run(**said)
    assert caught.value.code == code and words in caught.value.text


def test_a_trainer_that_is_not_there_is_named_with_what_to_do(house):
    for environment in ({}, {"GRAFTWORK_TRAINER_LLAMAFACTORY": "/nowhere/python"}):
        with pytest.raises(PlatformError) as caught:
            house.run(environment=environment)
        assert caught.value.code == "trainer_not_installed"
        assert "GRAFTWORK_TRAINER_LLAMAFACTORY" in caught.value.fix


def test_what_a_tool_cannot_express_is_refused_before_it_starts(base, tmp_path):
    house = House(base, tmp_path, early_stopping=2)
    with pytest.raises(InvalidRequest) as caught:
        house.run(environment={})
    assert (caught.value.code, caught.value.param) == ("trainer_cannot", "early_stopping")


def test_rows_go_as_tokens_with_labels_on_answers_only(tmp_path, renderer):
    from tinytraining import chat

    encoded = renderer.encode(chat("red cat", "cat red"))
    write_rows(tmp_path / "data" / "rows.jsonl", [encoded])
    row = json.loads((tmp_path / "data" / "rows.jsonl").read_text())
    assert row["input_ids"] == encoded.tokens and set(row["attention_mask"]) == {1}
    learnt = [label for label in row["labels"] if label != -100]
    assert renderer.decode(learnt, skip_special_tokens=False) == "cat red<|im_end|>"


def test_names_that_tools_leave_in_are_taken_out(tmp_path):
    source, target = tmp_path / "source", tmp_path / "target"
    source.mkdir()
    wrapped = {
        name.replace(".weight", ".default.weight"): torch.ones(shape) for name, shape in SHAPES.items()
    }
    save_file({name: tensor.half() for name, tensor in wrapped.items()}, source / WEIGHTS)
    (source / CONFIG).write_text(json.dumps(PEFT))
    base = BaseRef(name="tiny", repository="tiny", revision="0")
    bring_back(source, target, LORA, base, ("q_proj",))
    found = load_file(target / WEIGHTS)
    assert set(found) == set(SHAPES) and {tensor.dtype for tensor in found.values()} == {torch.float32}
    with pytest.raises(TrainingError) as caught:
        bring_back(source, target, LORA, base, ("q_proj", "v_proj"))
    assert caught.value.code == "adapter_differs"


def test_only_whole_lines_are_read(tmp_path):
    path = tmp_path / "events.jsonl"
    lines = Lines(path)
    assert lines.new() == []
    with path.open("ab", buffering=0) as file:
        file.write(b'{"event": "end", "st')
        assert lines.new() == []
        file.write(b'ep": 3}\n{"event"')
        assert [parse(line).step for line in lines.new()] == [3]
    with pytest.raises(GraftworkError):
        parse(b"Traceback")


def test_a_tool_learns_no_secret():
    own = {
        "PATH": "/bin",
        "HF_TOKEN": "x",
        "HF_HOME": "/h",
        "GRAFTWORK_KEY": "x",
        "AWS_SECRET_ACCESS_KEY": "x",
    }
    seen = environment_of(own, {"MORE": "1"})
    assert {"PATH", "HF_HOME", "MORE"} <= set(seen)
    assert not {"HF_TOKEN", "GRAFTWORK_KEY", "AWS_SECRET_ACCESS_KEY"} & set(seen)
