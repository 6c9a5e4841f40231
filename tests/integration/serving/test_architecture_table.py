"""docs/models.md's table of architectures, from real results: each row is computed, and then compared.

A tiny random model of every architecture is trained by the real trainer; the same run is broken off and taken
up by a second trainer; its adapter is merged, loaded in PEFT and in the embedded engine. The last column says
what ``tests/lanes/vllm`` holds vLLM to. To write the table: run this with ``-s`` and copy the rows it prints.
"""

from __future__ import annotations

from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from faketime import FakeTime
from safetensors.torch import load_file
from tinyadapters import load_plain, plain_logits
from tinymodels import ARCHITECTURES, make_model
from tinyserving import ask, client_of, engine, plain_greedy
from tinytraining import make_rows, make_run

from graftwork.core.specs import BaseRef, LoraSpec
from graftwork.core.states import Outcome
from graftwork.data import Renderer
from graftwork.models.merge import merge
from graftwork.models.support import SUPPORT, Engine
from graftwork.runs.documents import Probe, Result
from graftwork.runs.reader import RunReader
from graftwork.runs.transport import LocalTransport
from graftwork.serving.probe import agreement, effect
from graftwork.serving.wire.backend import Sampling, Work
from graftwork.training.attempt import StopSignal
from graftwork.training.base import open_engine
from graftwork.training.packed.engine import PackedEngine
from graftwork.training.train_lora import Trainer

pytestmark = pytest.mark.slow
PAGE = Path(__file__).parents[3] / "docs" / "models.md"
BEGIN, END = "<!-- architectures: begin -->", "<!-- architectures: end -->"
TOKENS = [5, 9, 30, 44, 7, 8, 99, 21, 5, 6, 12]


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    architecture: str
    changes: str
    train: str
    resume: str
    merge: str
    peft: str
    embedded: str
    vllm: str

    def __str__(self) -> str:
        return f"| {' | '.join(astuple(self))} |"


def _rows() -> dict[str, str]:
    """The page's lines by architecture."""
    table = PAGE.read_text().partition(BEGIN)[2].partition(END)[0]
    lines = [line for line in table.splitlines() if line.startswith("| `")]
    return {line.split("`")[1]: line for line in lines}


def test_the_page_has_every_architecture_and_no_other() -> None:
    assert set(_rows()) == set(SUPPORT) == set(ARCHITECTURES)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
async def test_the_row_is_what_was_found(architecture: str, tmp_path: Path) -> None:
    base = make_model(tmp_path / "base", architecture)
    trained, together = _train(base, tmp_path / "run")
    run = Path(trained)
    result = _result(run, 1)
    assert result.adapter is not None
    adapter = run / result.adapter.dir
    plain, adapted = load_plain(base), load_plain(base, adapter)
    row = Row(
        architecture=f"`{architecture}`",
        changes=", ".join(group.replace("_", " ") for group in SUPPORT[architecture].targets),
        train="together" if together else "in turns",
        resume=_yes(_resumes(base, tmp_path / "broken", adapter)),
        merge=_yes(_merges(base, adapter, tmp_path / "merged", adapted)),
        peft=_yes(_agrees(result, adapted, plain)),
        embedded=_yes(await _embedded(base, adapter, result, adapted)),
        vllm=_told(SUPPORT[architecture].engines["vllm"]),
    )
    print(row)
    assert SUPPORT[architecture].engines["embedded"] == Engine()
    assert str(row) == _rows()[architecture]


def _yes(found: bool) -> str:
    return "yes" if found else "no"


def _told(known: Engine) -> str:
    parts = [known.unseen] if known.unseen else []
    parts += [f"no {group.replace('_', ' ')}: {why}" for group, why in known.without.items()]
    return f"no: {known.why}" if known.why else "; ".join(parts) or "yes"


def _trainer(base: Path) -> tuple[Trainer, Any]:
    opened = open_engine(base)
    return Trainer(lambda _: (opened, Renderer.load(base)), StopSignal(), FakeTime(tick=0.001).clocks), opened


def _run(folder: Path, base: Path) -> str:
    """All that an adapter can change, learning rows by heart."""
    return make_run(
        folder,
        make_rows(8),
        make_rows(2, seed=9),
        base=BaseRef(name="tiny", repository=str(base), revision="0"),
        lora=LoraSpec(rank=4, alpha=8),
        n_epochs=6,
        batch_size=4,
        checkpoint_every=5,
        learning_rate=0.02,
    )


def _train(base: Path, folder: Path) -> tuple[str, bool]:
    """A run's folder, and whether its engine takes several adapters together."""
    uri = _run(folder, base)
    trainer, used = _trainer(base)
    trainer.join(uri)
    trainer.run()
    done = _result(folder, 1)
    assert done.outcome is Outcome.SUCCEEDED
    assert done.train_loss is not None and done.train_loss < 5  # random models begin above
    return uri, isinstance(used, PackedEngine)


def _result(folder: Path, fence: int) -> Result:
    result = RunReader(LocalTransport(folder)).result(fence)
    assert result is not None
    return result


def _resumes(base: Path, folder: Path, whole: Path) -> bool:
    """A run that a trainer lost after its first checkpoint ends, in a second one, with the same adapter."""
    uri = _run(folder, base)
    first, _ = _trainer(base)
    first.join(uri)
    for _ in range(7):
        first.turn()
    reader = RunReader(LocalTransport(folder))
    assert reader.result(1) is None
    assert [manifest.step for _, manifest in reader.checkpoints(1)] == [5]
    second, _ = _trainer(base)
    second.join(uri)
    second.run()
    done = _result(folder, 2)
    assert done.adapter is not None
    one = load_file(whole / "adapter_model.safetensors")
    two = load_file(folder / done.adapter.dir / "adapter_model.safetensors")
    return one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


def _merges(base: Path, adapter: Path, into: Path, adapted: Any) -> bool:
    merge(base, adapter, into)
    wanted = plain_logits(adapted, TOKENS)
    return bool((plain_logits(load_plain(into), TOKENS) - wanted).abs().max() < 5e-4 * wanted.abs().max())


def _agrees(result: Result, adapted: Any, plain: Any) -> bool:
    """PEFT gives the values that the trainer noted, and not those of the base."""
    probes = result.probes
    served = [_scores(adapted, probe) for probe in probes]
    without = [_scores(plain, probe) for probe in probes]
    return effect(probes, served, without).ok and agreement(probes, served, bound=1e-3).ok


def _scores(model: Any, probe: Probe) -> list[float | None]:
    tokens = list(probe.tokens)
    scores = plain_logits(model, tokens).log_softmax(-1)
    return [None, *(scores[i, token].item() for i, token in enumerate(tokens[1:]))]


async def _embedded(base: Path, adapter: Path, result: Result, adapted: Any) -> bool:
    """Greedy answers as PEFT's, and the probes through the serving path."""
    async with engine(base, batch_tokens=16) as backend, client_of(backend) as client:
        await backend.load("mine", adapter)
        how = Sampling(max_tokens=8, temperature=0, ignore_eos=True)
        told = [await ask(backend, Work("mine", TOKENS[:n], how)) for n in (1, 6, 11)]
        served = [await client.score("mine", probe.tokens) for probe in result.probes]
        without = [await client.score("base", probe.tokens) for probe in result.probes]
    wanted = [plain_greedy(adapted, TOKENS[:n], 8) for n in (1, 6, 11)]
    probed = effect(result.probes, served, without).ok and agreement(result.probes, served, bound=1e-3).ok
    return probed and [answer.tokens for answer in told] == wanted
