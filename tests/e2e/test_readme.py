"""The README's script is what it says: with nothing but `openai` it does the whole life of a fine-tune."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.e2e.conftest import EXAMPLES, ROOT, Up, clean_environment


@pytest.mark.slow
def test_the_script_of_the_readme_runs_as_it_stands(up: Up, tmp_path: Path):
    script = re.search(r"```python\n(.+?)```", (ROOT / "README.md").read_text(), flags=re.DOTALL)
    assert script
    shutil.copy(EXAMPLES / "lookup.train.jsonl", tmp_path / "train.jsonl")
    environment = {k: v for k, v in clean_environment(tmp_path).items() if k != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, "-c", script[1]],
        cwd=tmp_path,
        env={**environment, "GRAFTWORK_URL": up.url, "GRAFTWORK_API_KEY": up.api_key or ""},
        capture_output=True,
        text=True,
        timeout=800,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("succeeded ft:seedling:")
    assert ":support:" in done.stdout
