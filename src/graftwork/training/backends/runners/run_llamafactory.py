"""LLaMA-Factory on one config file, with our callback. Runs in its environment: ``… CONFIG ROWS``."""

from __future__ import annotations

import importlib.machinery
import json
import sys
import types
from pathlib import Path


def main(config: Path, rows: Path) -> None:
    """Rows in the form that ``tokenized_path`` reads, then LLaMA-Factory's own run."""
    without_sound()
    from datasets import Dataset, DatasetDict
    from graft_events import Events  # pyright: ignore[reportMissingImports] - it lies beside this file
    from llamafactory.train.tuner import run_exp  # pyright: ignore[reportMissingImports]

    arguments = json.loads(config.read_text())
    tokens = Path(arguments["tokenized_path"])
    if not tokens.exists():
        lines = [json.loads(line) for line in rows.read_text().splitlines()]
        DatasetDict({"train": Dataset.from_list(lines)}).save_to_disk(tokens)
    run_exp(args=arguments, callbacks=[Events()])


def without_sound() -> None:
    """Let an empty module stand for torchaudio where it does not work: it is imported for text, too, and its
    builds fit few of torch's."""
    try:
        import torchaudio  # noqa: F401  # pyright: ignore[reportMissingImports]
    except (ImportError, OSError):
        silent = types.ModuleType("torchaudio")
        silent.__spec__ = importlib.machinery.ModuleSpec("torchaudio", None)
        sys.modules["torchaudio"] = silent


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
