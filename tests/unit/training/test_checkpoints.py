"""Checkpoints: what was saved comes back, and what cannot be trusted is passed over."""

import pytest
import torch
from safetensors.torch import load_file
from tinytraining import make_run, make_spec

from graftwork.core.errors import PlatformError
from graftwork.core.specs import LoraSpec
from graftwork.runs.reader import RunReader
from graftwork.runs.transport import LocalTransport
from graftwork.runs.writer import RunWriter
from graftwork.training.base import open_engine
from graftwork.training.checkpoints import Progress, Saved, moments, newest, pour, write_state
from graftwork.training.engine import Adapter, Part
from graftwork.training.optimizer import Optimizer
from graftwork.training.solo import SoloEngine

LORA = LoraSpec(rank=4, alpha=8, dropout=0.1)


@pytest.fixture
def transport(tmp_path):
    make_run(tmp_path / "run")
    return LocalTransport(tmp_path / "run")


def save(transport, engine, tmp_path, fence, step, *, best_step=None):
    """A checkpoint whose weights are all ``step``, and whose best weights are all ``best_step``."""
    spec = RunReader(transport).spec()
    adapter = engine.add(LORA, 1)
    optimizer = Optimizer(adapter, 0.0, 1.0)
    adapter.grad.fill_(1.0)
    optimizer.step(0.1)
    adapter.weights.fill_(step)
    best = torch.full_like(adapter.weights, best_step) if best_step else None
    progress = Progress(step=step, tokens=10 * step, best_step=best_step)
    folder = tmp_path / f"state-{fence}-{step}"
    write_state(folder, spec, progress, adapter, best, optimizer.state())
    RunWriter(transport, fence).checkpoint(step, folder, at=1.0, metrics={}, tokens=10 * step)
    return adapter


def damage(transport, pattern):
    (path,) = transport.root.glob(pattern)
    path.write_bytes(path.read_bytes()[:-1] + b"?")


def test_everything_comes_back(transport, engine, tmp_path):
    adapter = save(transport, engine, tmp_path, 1, 4, best_step=2)
    reader = RunReader(transport)
    saved, refused = newest(reader, reader.spec(), 1)
    assert saved is not None and refused == []
    assert saved.progress == Progress(step=4, tokens=40, best_step=2)
    back = torch.zeros_like(adapter.weights)
    pour(saved.adapter, adapter, back)
    assert back.eq(4).all()
    assert saved.best is not None
    pour(saved.best, adapter, back)
    assert back.eq(2).all()
    assert {name: tensor.numel() for name, tensor in saved.optimizer.items()} == {
        "step": 1,
        "exp_avg": back.numel(),
        "exp_avg_sq": back.numel(),
    }


def test_the_furthest_step_of_any_attempt_so_far_is_taken(transport, engine, tmp_path):
    for fence, step in ((1, 6), (2, 4), (4, 9)):
        save(transport, engine, tmp_path, fence, step)
    reader = RunReader(transport)
    saved, _ = newest(reader, reader.spec(), 3)
    assert saved is not None and (saved.fence, saved.progress.step) == (1, 6)


def test_damaged_and_incomplete_checkpoints_are_passed_over(transport, engine, tmp_path):
    for step in (2, 4, 6):
        save(transport, engine, tmp_path, 1, step)
    damage(transport, "attempts/1/checkpoints/step-000006/adapter_model.safetensors")
    (transport.root / "attempts/1/checkpoints/step-000004/optimizer.safetensors").unlink()
    reader = RunReader(transport)
    saved, refused = newest(reader, reader.spec(), 1)
    assert saved is not None and saved.progress.step == 2
    assert [error.code for error in refused] == ["run_folder_corrupt"]


def test_a_checkpoint_of_another_run_is_not_taken(transport, engine, tmp_path):
    save(transport, engine, tmp_path, 1, 2)
    saved, refused = newest(RunReader(transport), make_spec(b"{}\n", seed=99), 1)
    assert saved is None
    assert [error.code for error in refused] == ["checkpoint_unusable"]


def test_tensors_of_another_shape_are_not_poured(engine):
    small, large = engine.add(LoraSpec(rank=2, alpha=2), 1), engine.add(LoraSpec(rank=4, alpha=2), 1)
    with pytest.raises(PlatformError) as caught:
        pour(small.tensors(), large, large.weights)
    assert caught.value.code == "checkpoint_unusable"


def test_moments_follow_their_tensors_from_one_engine_to_another(base, tmp_path):
    lora = LoraSpec(rank=2, alpha=4)
    packed, solo = open_engine(base).add(lora, 1), SoloEngine.load(base).add(lora, 1)
    assert [part.name for part in packed.parts] != [part.name for part in solo.parts]
    flat = torch.arange(solo.weights.numel(), dtype=torch.float32)
    spec = make_spec(b'{"text":"a"}\n', lora=lora)
    state = {"exp_avg": flat, "step": torch.tensor(3.0)}
    write_state(tmp_path, spec, Progress(), solo, None, state)
    saved = Saved(1, Progress(), {}, None, load_file(tmp_path / "optimizer.safetensors"))
    for adapter in (packed, solo):
        found = adapter.tensors(moments(saved, adapter)["exp_avg"])
        assert all(torch.equal(found[name], view) for name, view in solo.tensors(flat).items())
    assert moments(saved, packed)["step"] == 3.0


def test_moments_of_an_adapter_with_gaps_between_its_tensors_come_back_in_place(tmp_path):
    parts = (Part("b", 0, (3,)), Part("a", 16, (2, 2)))
    adapter = Adapter("graft0", torch.zeros(32), torch.zeros(32), parts, ("q_proj",))
    flat = torch.zeros(32)
    for number, view in enumerate(adapter.tensors(flat).values(), 1):
        view.fill_(number)
    write_state(
        tmp_path, make_spec(b"{}\n"), Progress(), adapter, None, {"exp_avg": flat, "step": torch.tensor(3.0)}
    )
    saved = Saved(1, Progress(), {}, None, load_file(tmp_path / "optimizer.safetensors"))
    assert len(saved.optimizer["exp_avg"]) == 7
    assert torch.equal(moments(saved, adapter)["exp_avg"], flat)


def test_moments_of_another_adapter_are_refused(engine):
    small, large = engine.add(LoraSpec(rank=2, alpha=2), 1), engine.add(LoraSpec(rank=4, alpha=2), 1)
    saved = Saved(
        1, Progress(), {}, None, {"exp_avg": torch.cat([t.flatten() for t in small.tensors().values()])}
    )
    with pytest.raises(PlatformError) as caught:
        moments(saved, large)
    assert caught.value.code == "checkpoint_unusable"
    with pytest.raises(ValueError, match="another adapter"):
        Optimizer(large, 0.0, 1.0).restore({"exp_avg": torch.zeros(small.weights.numel())})
