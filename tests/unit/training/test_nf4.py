"""A base in 4 bits: the numbers of plain weights that hold the same, little memory, few readings."""

from __future__ import annotations

import gc
import json
import random
import weakref
from dataclasses import fields
from pathlib import Path

import pytest
import torch
from tinymodels import ARCHITECTURES, make_model
from tinytraining import make_rows, make_run
from torch import nn
from unpacked import unpacked

from graftwork.core.errors import TrainingError
from graftwork.core.specs import BaseRef, LoraSpec
from graftwork.core.states import Outcome
from graftwork.data.rendering import Encoded
from graftwork.models.folder import revision_of
from graftwork.runs.reader import RunReader
from graftwork.runs.transport import LocalTransport
from graftwork.training.attempt import StopSignal
from graftwork.training.base import open_base
from graftwork.training.engine import Adapter, Sums, Work
from graftwork.training.loading import load_model
from graftwork.training.nf4 import Nf4, Nf4Linear, read
from graftwork.training.packed.engine import PackedEngine
from graftwork.training.quantizing import pack_, quantized_bytes
from graftwork.training.solo import SoloEngine
from graftwork.training.train_lora import Trainer

CPU = torch.device("cpu")
LORAS = (
    LoraSpec(rank=6, alpha=9),
    LoraSpec(rank=2, alpha=4, rslora=True, targets=("q_proj",)),
    LoraSpec(rank=6, alpha=9),
)


def rows_of(seed: int) -> list[Encoded]:
    numbers = random.Random(seed)
    lengths = [numbers.randint(4, 20) for _ in range(3)]
    return [
        Encoded([numbers.randrange(300) for _ in range(length)], [at > 2 for at in range(length)], length)
        for length in lengths
    ]


def stirred(adapter: Adapter, seed: int) -> Adapter:
    numbers = torch.Generator().manual_seed(seed)
    for _, view in sorted(adapter.tensors().items()):
        view.copy_(torch.randn(view.shape, generator=numbers) * 0.1)
    return adapter


@pytest.fixture(scope="module", params=ARCHITECTURES)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("models") / request.param, request.param)


def test_company_has_the_losses_and_gradients_of_peft_on_the_same_numbers_as_plain_weights(folder: Path):
    model = load_model(folder, CPU, quantization="nf4")
    oracle, engine = SoloEngine(unpacked(model)), PackedEngine(model)
    assert engine.describe()["quantization"] == "nf4" and "quantization" not in oracle.describe()
    adapters = [stirred(engine.add(lora, n), n) for n, lora in enumerate(LORAS)]
    works = [Work(adapter, [rows_of(n)], 5) for n, adapter in enumerate(adapters)]
    outcomes = engine.forward_backward(works)
    for n, (work, outcome) in enumerate(zip(works, outcomes, strict=True)):
        lone = stirred(oracle.add(LORAS[n], n), n)
        (wanted,) = oracle.forward_backward([Work(lone, work.batches, 5)])
        assert isinstance(outcome, Sums) and isinstance(wanted, Sums)
        assert outcome.loss == pytest.approx(wanted.loss, rel=1e-5)
        mine, theirs = (a.tensors(a.grad) for a in (work.adapter, lone))
        largest = lone.grad.abs().max().item()
        off = {name: (mine[name] - theirs[name]).abs().max().item() / largest for name in theirs}
        # Gated DeltaNet's recurrence ends in other last bits with rows side by side, in 4 bits or not
        assert max(off.values()) <= (5e-5 if folder.name == "qwen3_next" else 1e-5), off
        oracle.remove(lone)


def test_weights_are_packed_while_they_are_read_and_only_those_of_layers(folder: Path):
    model, plain = load_model(folder, CPU, quantization="nf4"), load_model(folder, CPU)
    packed = pack_(load_model(folder, CPU))
    ids = torch.arange(9)[None]
    with torch.no_grad():
        assert torch.equal(model(input_ids=ids).logits, packed(input_ids=ids).logits)
        assert not torch.allclose(model(input_ids=ids).logits, plain(input_ids=ids).logits)
    here, there = dict(model.named_parameters()), dict(plain.named_parameters())
    kept = [name for name, weight in here.items() if weight.is_floating_point()]
    assert all(torch.equal(here[name], there[name]) for name in kept)
    assert any("embed" in name for name in kept) and any("norm" in name for name in kept)
    left = set(there) - set(kept)
    assert left and all("layers" in name and there[name].dim() > 1 for name in left)
    head = model.get_output_embeddings()
    assert type(head) is nn.Linear


def test_a_weight_takes_little_more_than_half_a_byte(tmp_path: Path):
    sizes = {"hidden_size": 256, "intermediate_size": 768, "num_hidden_layers": 1}
    model = load_model(make_model(tmp_path / "model", **sizes), CPU, quantization="nf4")
    weights, held = quantized_bytes(model)
    assert weights > 500_000
    assert 0.516 <= held / weights <= 0.54


class Watched(Nf4):
    """Says when it is read, and sees how many that were read before are still there."""

    readings: list[weakref.ref[torch.Tensor]]
    alive: list[int]

    def read(self) -> torch.Tensor:
        return self._seen(super().read())

    def read_into_(self, out: torch.Tensor) -> None:
        super().read_into_(out)
        self._seen(out)

    def _seen(self, weight: torch.Tensor) -> torch.Tensor:
        base = weight if weight._base is None else weight._base
        if all(one() is not base for one in Watched.readings):
            Watched.readings.append(weakref.ref(base))
            Watched.alive.append(sum(one() is not None for one in Watched.readings))
        return weight


@pytest.mark.parametrize("fuse", [True, False])
def test_weights_are_read_once_each_way_for_all_adapters_and_never_kept(tmp_path: Path, fuse: bool):
    model = load_model(make_model(tmp_path / "model"), CPU, quantization="nf4")
    for module in model.modules():
        if isinstance(module, Nf4Linear):
            module.packed = Watched(*(getattr(module.packed, field.name) for field in fields(Nf4)))
    Watched.readings, Watched.alive = [], []
    engine = PackedEngine(model, fuse=fuse)
    works = [Work(engine.add(lora, n), [rows_of(n)], 5) for n, lora in enumerate(LORAS)]
    Watched.readings, Watched.alive = [], []
    assert all(isinstance(outcome, Sums) for outcome in engine.forward_backward(works))
    # 2 layers; fused, query, key and value are one reading, gate and up another. Nothing is read for a
    # gradient toward the embeddings: that is what the first layer's inner products would be for.
    products = 2 * (4 if fuse else 7)
    assert len(Watched.alive) == 2 * products - (1 if fuse else 3)
    assert max(Watched.alive) <= 2
    gc.collect()
    assert all(one() is None for one in Watched.readings)


def test_several_weights_are_read_below_one_another():
    ones = [torch.randn(rows, 128) for rows in (64, 3, 128)]
    packed = [Nf4.pack(one) for one in ones]
    whole = read(packed)
    assert torch.equal(whole, torch.cat([one.read() for one in packed]))
    assert (whole - torch.cat(ones)).abs().mean() < 0.12 * torch.cat(ones).abs().mean()
    stack = torch.randn(5, 8, 64)
    assert Nf4.pack(stack).read().shape == stack.shape
    assert Nf4.pack(stack.bfloat16(), torch.float32).read().dtype is torch.float32


def test_experts_in_4_bits_are_refused_where_peft_would_leave_them_out(tmp_path: Path):
    solo = SoloEngine.load(make_model(tmp_path / "model", "qwen3_moe"), CPU, quantization="nf4")
    with pytest.raises(TrainingError, match="experts") as refused:
        solo.add(LoraSpec(), 0)
    assert refused.value.code == "unsupported_method"
    solo.add(LoraSpec(targets=("q_proj",)), 0)


def test_a_base_that_is_published_in_few_bits_is_refused(tmp_path: Path):
    folder = make_model(tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "mxfp4"}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(TrainingError, match="published with quantized weights"):
        load_model(folder, CPU, quantization="nf4")


@pytest.mark.parametrize("dora", [False, True])
def test_a_run_that_asks_for_it_trains_on_it(tmp_path: Path, dora: bool):
    folder = make_model(tmp_path / "model")
    uri = make_run(
        tmp_path / "run",
        make_rows(12),
        make_rows(3, 9),
        quantization="nf4",
        base=BaseRef(name="tiny", repository=str(folder), revision=revision_of(folder)),
        lora=LoraSpec(rank=4, alpha=8, dora=dora),
    )
    trainer = Trainer(open_base, StopSignal())
    trainer.join(uri)
    trainer.run()
    result = RunReader(LocalTransport(uri)).result(1)
    assert result is not None and result.outcome is Outcome.SUCCEEDED, result
    assert result.machine["quantization"] == "nf4"
    assert result.valid_loss is not None and result.base_valid_loss is not None
    assert result.valid_loss < result.base_valid_loss - 0.1
    assert {probe.quantization for probe in result.probes} == {"nf4"}
