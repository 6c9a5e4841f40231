"""Make the three example data sets, in OpenAI's chat format.

    python scripts/examples/make.py [folder]

The files are the same, byte for byte, on every run; no question is in both the training and the held-out
file.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import house_style
import lookup
import tickets
from chance import Chance

FOLDER = Path(__file__).parents[2] / "src/graftwork/data/examples"
TRAIN_ROWS, VALID_ROWS = 400, 80
Maker = Callable[[Chance], tuple[str, str]]
SETS: dict[str, tuple[str, Maker, int]] = {
    "tickets": (tickets.SYSTEM, tickets.row, 11),
    "house_style": (house_style.SYSTEM, house_style.row, 12),
    "lookup": (lookup.SYSTEM, lookup.row, 13),
}


def pairs(maker: Maker, seed: int, count: int) -> dict[str, str]:
    """Different questions with their answers."""
    chance = Chance(seed)
    found: dict[str, str] = {}
    while len(found) < count:
        question, answer = maker(chance)
        # a row that is already as it should be would be answered by mere copying
        if question != answer:
            found[question] = answer
    return found


def line(system: str, question: str, answer: str) -> str:
    """One row as JSON."""
    messages = [
        {"role": "system", "content": system},
        {"role": "user", "content": question},
        {"role": "assistant", "content": answer},
    ]
    return json.dumps({"messages": messages}, ensure_ascii=False) + "\n"


def main(folder: Path = FOLDER) -> None:
    """Write train and valid files of every set."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, (system, maker, seed) in SETS.items():
        rows = list(pairs(maker, seed, TRAIN_ROWS + VALID_ROWS).items())
        parts = {"train": rows[:TRAIN_ROWS], "valid": rows[TRAIN_ROWS:]}
        shared = {q for q, _ in parts["train"]} & {q for q, _ in parts["valid"]}
        assert not shared, f"rows in both files of {name}: {shared}"
        for part, chosen in parts.items():
            text = "".join(line(system, question, answer) for question, answer in chosen)
            (folder / f"{name}.{part}.jsonl").write_bytes(text.encode())


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:2]))
