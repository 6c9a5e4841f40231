"""The request path stays light: it drags in no web framework, no validation library, no HTTP client."""

import subprocess
import sys
from pathlib import Path

HEAVY = ("fastapi", "starlette", "pydantic", "httpx", "aiohttp", "torch", "graftwork.control")


def test_importing_the_gateway_imports_nothing_heavy():
    code = f"import sys, graftwork.gateway; print([m for m in {HEAVY!r} if m in sys.modules])"
    source = Path(__file__).parents[3] / "src"
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env={"PYTHONPATH": str(source)},
    )
    assert done.stdout.strip() == "[]"
