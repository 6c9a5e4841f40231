"""Each architecture through the real trainer: two adapters in company, a pause, a resume, an export to PEFT.

Exact, each adapter has passes of its own, and a run in company is the lone run bit for bit. Fast, sums end
in other last bits, and steps let them grow: most in Gated DeltaNet, where a small difference is passed on
along the row (one of AdamW's means was 2 % off after six steps).

In nf4 the base is in 4 bits, and the company exact: the oracle in PEFT is the same numbers as plain weights.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Literal

import pytest
import torch
from companies import Company as Rig
from companies import distance, losses, outcome, tensors
from peft import PeftModel
from tinymodels import make_model
from tinytraining import make_rows, make_run
from unpacked import unpacked

from graftwork.core.specs import LoraSpec, Quantization
from graftwork.core.states import Outcome, Want
from graftwork.data.rendering import Renderer
from graftwork.models.folder import describe
from graftwork.registry import check_adapter
from graftwork.runs.documents import Probe, Result
from graftwork.runs.reader import RunReader
from graftwork.runs.transport import LocalTransport
from graftwork.training.loading import load_model
from graftwork.training.packed.engine import Company, PackedEngine

pytestmark = pytest.mark.slow

Mode = Literal["exact", "fast", "nf4"]

TRAINED = ("qwen3", "llama", "mistral", "qwen3_moe", "qwen3_next")
BOUND = {
    "exact": dict.fromkeys(TRAINED, 0.0),
    "fast": {**dict.fromkeys(TRAINED, 5e-3), "qwen3_next": 5e-2},
    "nf4": dict.fromkeys(TRAINED, 0.0),
}
"""Of any tensor of the adapter and its optimizer, as a share of its largest entry."""
CURVE = {"exact": 0.0, "fast": 5e-4, "nf4": 0.0}
"""Of a loss, nats."""
LORAS = {
    "wide": LoraSpec(rank=6, alpha=12, dropout=0.1),
    "narrow": LoraSpec(rank=2, alpha=2, rslora=True, targets=("q_proj", "o_proj")),
}


def run_of(folder: Path, name: str, seed: int, mode: Mode) -> str:
    return make_run(
        folder,
        make_rows(12, seed=seed),
        make_rows(3, seed=100 + seed),
        lora=LORAS[name],
        seed=seed,
        n_epochs=2,
        checkpoint_every=3,
        eval_every=3,
        quantization=held(mode),
    )


def held(mode: Mode) -> Quantization:
    return "nf4" if mode == "nf4" else "none"


@pytest.fixture(scope="module", params=TRAINED)
def base(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("models") / request.param, request.param)


@pytest.fixture(scope="module")
def renderer(base: Path) -> Renderer:
    return Renderer.load(base)


@pytest.fixture(params=["exact", "fast", "nf4"])
def mode(request: pytest.FixtureRequest) -> Mode:
    return request.param


def engine(base: Path, mode: Mode) -> PackedEngine:
    company: Company = "exact" if mode == "nf4" else mode
    return PackedEngine(load_model(base, torch.device("cpu"), quantization=held(mode)), company=company)


def result_of(uri: str, fence: int) -> Result:
    result = RunReader(LocalTransport(Path(uri))).result(fence)
    assert result is not None
    return result


def test_trains_in_company_pauses_resumes_and_loads_in_peft(
    base: Path, renderer: Renderer, mode: Mode, tmp_path: Path
):
    lone = run_of(tmp_path / "lone", "wide", 1, mode)
    Rig(engine(base, mode), renderer).join(lone).finish()

    mine, other = run_of(tmp_path / "mine", "wide", 1, mode), run_of(tmp_path / "other", "narrow", 2, mode)
    first = Rig(engine(base, mode), renderer).join(mine).join(other)
    first.turn(4)
    first.tell(mine, 1, Want.PAUSE)
    first.turn(1)
    assert outcome(mine) is Outcome.PAUSED and first.aboard(other)
    first.finish()
    late = run_of(tmp_path / "late", "narrow", 3, mode)
    second = Rig(engine(base, mode), renderer).join(late)
    second.turn(1)
    second.join(mine, 2).finish()
    assert [outcome(mine, 2), outcome(other), outcome(late)] == [Outcome.SUCCEEDED] * 3

    together, apart = losses(mine, 2), losses(lone, 1)
    assert together.keys() == apart.keys() and len(apart) == 6
    assert max(abs(together[step] - apart[step]) for step in apart) <= CURVE[mode]
    assert apart[6] < apart[1]
    off, name = distance(tensors(lone, 1), tensors(mine, 2))
    assert off <= BOUND[mode][base.name], f"{name} is {off:.2e} off"

    files = result_of(mine, 2).adapter
    assert files is not None
    folder = Path(mine) / files.dir
    assert check_adapter(folder, shapes=describe(base).adapter_shapes) == []
    _same_in_peft(base, folder, result_of(mine, 2).probes, mode)


def _same_in_peft(base: Path, folder: Path, probes: list[Probe], mode: Mode) -> None:
    """The log-probabilities that the trainer left as probes are PEFT's, and not the base's."""
    assert {probe.quantization for probe in probes} == {held(mode)}
    model = unpacked(load_model(base, torch.device("cpu"), quantization=held(mode)))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning)
        # PEFT looks for a pattern's target among modules only; the equal numbers say that it was used
        warnings.filterwarnings("ignore", "The following (rank|alpha)_pattern keys", RuntimeWarning)
        adapted = PeftModel.from_pretrained(model, folder).eval()
    assert probes
    for probe in probes:
        tokens = torch.tensor([probe.tokens])
        with torch.no_grad():
            ours = adapted(tokens).logits
            with adapted.disable_adapter():
                bases = adapted(tokens).logits
        for logits, wanted in ((ours, probe.logprobs), (bases, probe.base_logprobs)):
            table = torch.log_softmax(logits[0, :-1].float(), -1)
            found = table.gather(1, tokens[0, 1:, None])[probe.start - 1 :, 0]
            torch.testing.assert_close(found, torch.tensor(wanted), rtol=1e-3, atol=1e-3)
        assert probe.logprobs != probe.base_logprobs
