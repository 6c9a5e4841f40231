"""llama.cpp in the lane's own environment, asked through ``llama.py``."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Llama = Callable[..., dict[str, Any]]


@pytest.fixture(scope="session")
def llama() -> Llama:
    """llama.cpp: fields of a request in, its answer out."""
    python = os.environ.get("GRAFTWORK_LANE_GGUF")
    if not python:
        pytest.skip("needs `make lane-gguf`: llama.cpp's Python build in an environment of its own")

    def ask(**request: Any) -> dict[str, Any]:
        done = subprocess.run(
            [python, str(Path(__file__).parent / "llama.py")],
            input=json.dumps(request),
            capture_output=True,
            text=True,
            timeout=500,
        )
        assert done.returncode == 0, done.stderr[-3000:]
        return json.loads(done.stdout[done.stdout.index("{") :])

    return ask
