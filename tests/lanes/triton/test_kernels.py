"""The CUDA kernels, in Triton's interpreter on a CPU: values and gradients of autograd, NaN in its row."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

KERNELS = Path(__file__).parents[3] / "src/graftwork/training/packed/triton_kernels.py"
BOUNDS = {"float32": 2e-6, "bfloat16": 1.2e-2}
"""Of a number, relative to the greatest: bf16 has 8 bits, and the norm rounds twice."""


@pytest.fixture
def python() -> str:
    found = os.environ.get("GRAFTWORK_LANE_TRITON")
    if not found:
        pytest.skip("needs `make lane-triton`: torch and Triton in an environment of their own")
    return found


NAMES = {"norm", "norm_back", "turn", "turn_back", "gate", "gate_back"}


def told(python: str, script: str) -> dict[str, float]:
    path = str(Path(__file__).parent / script)
    done = subprocess.run([python, path, str(KERNELS)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_every_kernel_is_what_autograd_makes(python: str):
    found = told(python, "run.py")
    assert {key.split()[0] for key in found if key.endswith("bfloat16")} == NAMES
    assert {key.split()[0] for key in found if key.endswith("float32")} == NAMES | {"losses", "answer"}
    assert {key: off for key, off in found.items() if off > BOUNDS[key.split()[1]]} == {}


def test_every_kernel_compiles_for_gpus_that_are_not_here(python: str):
    """The interpreter takes what the compiler does not; ``ptxas`` makes Ampere's and Hopper's programs."""
    found = told(python, "build.py")
    assert {key.split()[0] for key in found} == NAMES | {"answer"}
    assert {key.split()[2] for key in found} == {"sm_80", "sm_90"} and all(found.values())
