"""The native engine against TRL's SFTTrainer and DPOTrainer: the same curve, step by step."""

import importlib.util
import re
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest
from tinyruns import make_pairs
from tinytraining import make_rows

SCRIPT = Path(__file__).parents[3] / "scripts/figures/trl_agreement.py"
TOLERANCE = {"loss": 1e-5, "grad_norm": 1e-4, "lr": 1e-9}
"""Largest relative difference over all steps in fp32; measured are about 1e-7 and 1e-6."""


def load(path):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # its dataclasses look themselves up, and scripts import each other
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def script():
    return load(SCRIPT)


@pytest.fixture(scope="module")
def dpo_script(script):
    return load(SCRIPT.with_name("dpo_agreement.py"))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")  # asked by PEFT
def test_curves_agree_step_by_step(script, base, capsys):
    result = script.compare(base, make_rows(40), epochs=3, batch_size=8, accumulation=2)
    assert len(result.native) == len(result.trl) == 15
    found = {field: result.deviation(field) for field in TOLERANCE}
    with capsys.disabled():
        print("\nnative against TRL, largest relative deviations:", found)
    for field, limit in TOLERANCE.items():
        assert found[field] <= limit, field
    assert result.native[-1].loss < result.native[0].loss
    assert min(step.grad_norm for step in result.native) > 1  # clipping was at work
    drawing = ElementTree.fromstring(script.figure(result, "a < b"))
    assert len(drawing.findall(".//{*}circle")) == 15
    assert not re.search("nan|inf", ElementTree.tostring(drawing).decode())


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning")  # TRL's and PEFT's own
def test_dpo_agrees_step_by_step(dpo_script, base, capsys):
    result = dpo_script.compare(base, make_pairs(40), epochs=3, batch_size=8, accumulation=2)
    assert len(result.native) == len(result.trl) == 15
    found = {field: result.deviation(field) for field in TOLERANCE}
    with capsys.disabled():
        print("\nDPO, native against TRL, largest relative deviations:", found)
    for field, limit in TOLERANCE.items():
        assert found[field] <= limit, field
    assert result.native[-1].loss < result.native[0].loss - 0.1
