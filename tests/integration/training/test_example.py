"""The flat example trains, resumes and answers, and stays short."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from tinytraining import make_rows

from graftwork.data.rows import canonical
from graftwork.runs.reader import RunReader
from graftwork.runs.transport import LocalTransport

ROOT = Path(__file__).parents[3]
EXAMPLE = ROOT / "examples/train_flat.py"


def test_the_example_is_flat_and_short():
    text = EXAMPLE.read_text()
    assert text.count("\n") < 200
    assert "\nclass " not in text


@pytest.mark.slow
def test_the_example_trains_and_asks(base, tmp_path):
    (tmp_path / "rows.jsonl").write_bytes(canonical(make_rows(30)))
    asked = ["--data", "rows.jsonl", "--base", str(base), "--epochs", "1", "--ask", "2"]
    done = subprocess.run(
        [sys.executable, "-W", "error::UserWarning", str(EXAMPLE), *asked],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT / "src"), "HOME": str(tmp_path), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    result = RunReader(LocalTransport(tmp_path / "run")).result(1)
    assert result is not None and result.valid_loss is not None
    assert f"-> {result.valid_loss:.3f} (step {result.best_step})" in done.stdout
    assert "of 2 answers are exactly as wanted" in done.stdout
    assert "n_epochs: asked: 1" in done.stdout
