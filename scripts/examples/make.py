"""Make the example data sets: three in OpenAI's chat format, and one of preferences.

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
import manners
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


def preferences(seed: int, count: int) -> list[str]:
    """Different questions, each with the preferred and the other answer, in OpenAI's preference format."""
    chance = Chance(seed)
    found: dict[str, tuple[str, str]] = {}
    while len(found) < count:
        question, preferred, other = manners.row(chance)
        found[question] = (preferred, other)
    return [preference_line(question, *answers) for question, answers in found.items()]


def preference_line(question: str, preferred: str, other: str) -> str:
    """One pair as JSON."""
    messages = [{"role": "system", "content": manners.SYSTEM}, {"role": "user", "content": question}]
    row = {
        "input": {"messages": messages},
        "preferred_output": [{"role": "assistant", "content": preferred}],
        "non_preferred_output": [{"role": "assistant", "content": other}],
    }
    return json.dumps(row, ensure_ascii=False) + "\n"


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
    pairs_of_answers = preferences(14, TRAIN_ROWS + VALID_ROWS)
    for part, lines in (("train", pairs_of_answers[:TRAIN_ROWS]), ("valid", pairs_of_answers[TRAIN_ROWS:])):
        (folder / f"manners.{part}.jsonl").write_text("".join(lines), "utf-8")


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:2]))
