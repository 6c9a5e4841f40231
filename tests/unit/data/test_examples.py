"""The example data sets: their size, their shape, and that the script still makes them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
FOLDER = ROOT / "src/graftwork/data/examples"
SETS = ("tickets", "house_style", "lookup")


def rows(name: str, part: str) -> list[list[dict[str, str]]]:
    """The messages of every row of a file."""
    lines = (FOLDER / f"{name}.{part}.jsonl").read_text("utf-8").splitlines()
    return [json.loads(line)["messages"] for line in lines]


@pytest.mark.parametrize("name", SETS)
def test_there_are_enough_rows(name: str) -> None:
    assert len(rows(name, "train")) >= 300
    assert len(rows(name, "valid")) >= 60


@pytest.mark.parametrize("name", SETS)
def test_no_question_is_in_both_files_or_twice_in_one(name: str) -> None:
    train = [row[1]["content"] for row in rows(name, "train")]
    valid = [row[1]["content"] for row in rows(name, "valid")]
    assert len(set(train + valid)) == len(train) + len(valid)


@pytest.mark.parametrize("name", SETS)
def test_rows_are_chats_with_an_answer_that_is_no_copy(name: str) -> None:
    for row in rows(name, "train") + rows(name, "valid"):
        assert [message["role"] for message in row] == ["system", "user", "assistant"]
        assert all(message["content"].strip() == message["content"] for message in row)
        assert row[1]["content"] != row[2]["content"]


def test_ticket_labels_follow_from_the_text() -> None:
    labels = [(row[1]["content"], json.loads(row[2]["content"])) for row in rows("tickets", "train")]
    for text, label in labels:
        assert list(label) == ["team", "urgency", "product"]
        assert label["product"] in text
    assert {label["team"] for _, label in labels} == {"billing", "technical", "delivery", "account"}
    assert {label["urgency"] for _, label in labels} == {"high", "normal", "low"}


def test_house_style_has_nothing_forbidden_left() -> None:
    for row in rows("house_style", "train") + rows("house_style", "valid"):
        answer = row[2]["content"]
        assert answer.endswith(".") and not answer.endswith("..")
        assert not set("$€£%&!") & set(answer)


def test_lookup_lines_are_in_the_dialect() -> None:
    for row in rows("lookup", "train") + rows("lookup", "valid"):
        assert row[2]["content"].startswith("find ")
        assert " where " in row[2]["content"]


def test_the_script_makes_the_same_files(tmp_path: Path) -> None:
    script = ROOT / "scripts/examples/make.py"
    subprocess.run([sys.executable, str(script), str(tmp_path)], check=True)
    made = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert made == {path.name: path.read_bytes() for path in FOLDER.glob("*.jsonl")}


def preferences(part: str) -> list[dict]:
    """The rows of the preference set."""
    lines = (FOLDER / f"manners.{part}.jsonl").read_text("utf-8").splitlines()
    return [json.loads(line) for line in lines]


def test_preferences_are_enough_and_no_question_is_in_both_files() -> None:
    train, valid = preferences("train"), preferences("valid")
    assert len(train) >= 300 and len(valid) >= 60
    asked = [row["input"]["messages"][1]["content"] for row in train + valid]
    assert len(set(asked)) == len(asked)
    for row in train + valid:
        kind, curt = row["preferred_output"][0]["content"], row["non_preferred_output"][0]["content"]
        assert kind != curt
        assert abs(len(kind) - len(curt)) < 60


def test_neither_tone_is_told_by_its_length() -> None:
    rows = preferences("train")
    longer = sum(
        len(row["preferred_output"][0]["content"]) > len(row["non_preferred_output"][0]["content"])
        for row in rows
    )
    assert 0.3 < longer / len(rows) < 0.7
