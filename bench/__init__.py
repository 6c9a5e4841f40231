"""Benchmarks against the real peers; results are committed with the machine described."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def save(target: Path, result: dict[str, Any]) -> None:
    """Write a result as JSON, and print it."""
    text = json.dumps(result, indent=2)
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(text + "\n")
    print(text)
