"""The memory a plan predicts, against the peak of the real engine: within a factor of 1.5 either way."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from trainermemory import config

from graftwork.core.specs import LoraSpec
from graftwork.models.entry import Shape
from graftwork.models.memory import Load, profile

FACTOR = 1.5
SCRIPT = Path(__file__).parents[2] / "support" / "trainermemory.py"
SOURCE = Path(__file__).parents[3] / "src"
CASE = {"vocab": 4096, "hidden": 256, "layers": 4, "rank": 16, "runs": 1, "length": 256, "rows": 8}


def run(case):
    environment = {**os.environ, "PYTHONPATH": str(SOURCE), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(SCRIPT), json.dumps(case)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=True)
    return json.loads(done.stdout) if done.stdout else {}


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    "changes",
    [{}, {"recompute": True}, {"runs": 8, "rows": 1}, {"quantization": "nf4"}],
    ids=["one run", "recomputed", "eight runs together", "in 4 bits"],
)
def test_the_predicted_peak_is_the_measured_one(changes, tmp_path):
    case = {**CASE, **changes}
    run({**case, "write": str(tmp_path)})
    measured = run({**case, "folder": str(tmp_path)})
    tokens = case["rows"] * case["length"]
    load = Load(lora=LoraSpec(rank=case["rank"]), tokens=tokens, labelled=tokens // 3, longest=case["length"])
    again = bool(case.get("recompute"))
    form = case.get("quantization", "none")
    shape = Shape.of_config(config(case))
    parts = profile(shape, [load] * case["runs"], recompute=again, quantization=form)
    assert 1 / FACTOR < sum(parts.values()) / measured["peak"] < FACTOR
    training = parts["adapter"] + parts["activations"] + parts["logits"]
    assert 1 / FACTOR < training / (measured["peak"] - measured["loaded"]) < FACTOR
