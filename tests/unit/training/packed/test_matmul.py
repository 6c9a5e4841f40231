"""Products are right in every layout that the engine hands over, and never the slow ones of a library."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tinymodels import make_model

from graftwork.training.packed.matmul import times

LAYOUTS = {
    "rows": lambda m: m,
    "columns": lambda m: m.t().contiguous().t(),
    "some columns of wider rows": lambda m: torch.cat([m, m], 1)[:, : m.shape[1]],
    "some rows of longer columns": lambda m: torch.cat([m, m]).t().contiguous().t()[: len(m)],
    "every other number": lambda m: torch.stack([m, m], 2).flatten(1)[:, ::2],
}
STEP = """
import sys, torch
from pathlib import Path
from graftwork.core.specs import LoraSpec
from graftwork.data.rendering import Encoded
from graftwork.training.engine import Sums, Work
from graftwork.training.packed.engine import PackedEngine
engine = PackedEngine.load(Path(sys.argv[1]), torch.device("cpu"))
adapters = [engine.add(LoraSpec(rank=rank, alpha=8, dropout=0.1), rank) for rank in (4, 8)]
rows = [Encoded(list(range(3, 3 + n)), [at > 2 for at in range(n)], n) for n in (9, 17, 30)]
for company in (adapters, adapters[:1]):
    for sums in engine.forward_backward([Work(adapter, [rows], 1) for adapter in company]):
        assert isinstance(sums, Sums), sums
"""


@pytest.mark.parametrize("of_x", LAYOUTS)
@pytest.mark.parametrize("of_weight", LAYOUTS)
def test_every_layout_gives_the_same_product(of_x, of_weight):
    numbers = torch.Generator().manual_seed(1)
    x, weight, bias = (torch.randn(*shape, generator=numbers) for shape in ((5, 7), (3, 7), (3,)))
    wanted = x @ weight.t() + bias
    assert torch.allclose(times(LAYOUTS[of_x](x), LAYOUTS[of_weight](weight), bias), wanted, atol=1e-5)


@pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="needs PyTorch with oneDNN")
@pytest.mark.parametrize("architecture", ["qwen3", "qwen3_moe"])
def test_no_product_of_a_step_falls_back_to_onednns_reference_loops(architecture, tmp_path):
    base = make_model(tmp_path / "base", architecture)
    source = Path(__file__).parents[4] / "src"
    told = {"PYTHONPATH": str(source), "GRAFTWORK_GEMM": "onednn", "ONEDNN_VERBOSE": "1"}
    command = [sys.executable, "-c", STEP, str(base)]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **told}, check=True)
    products = [line for line in done.stdout.splitlines() if ",inner_product," in line]
    assert len(products) > 50
    assert not [line for line in products if ",ref" in line]
