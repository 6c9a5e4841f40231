"""``graft dataset synth`` as a command: the plan first, a cap, Ctrl-C, and going on."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from moodymodel import MoodyModel, no

SOURCE = Path(__file__).parents[3] / "src"
COUNT = iter(range(10**6))


def writer(body):
    if "grade" in body["messages"][0]["content"]:
        return '{"score": 5}'
    number = next(COUNT)
    word = "abcdefghijklmnop"[number % 16] * 9
    rows = [{"question": f"What is {word} number {number}?", "answer": f"{number * 7919} {word[::-1]}"}]
    return json.dumps({"rows": rows})


@pytest.fixture
def model():
    with MoodyModel(writer) as made:
        yield made


@pytest.fixture
def start(model, tmp_path):
    """Starts ``graft dataset synth`` in a folder with five passages."""
    text = "\n\n".join(f"# Part {n}\n\nWords about {n} and more of it." for n in range(5))
    (tmp_path / "manual.md").write_text(text)

    def run(*arguments):
        base = ["dataset", "synth", "manual.md", "--model", "m", "--url", model.url, "-o", "rows.jsonl"]
        return subprocess.Popen(
            [sys.executable, "-m", "graftwork", *base, "--per-passage", "1", "--parallel", "1", *arguments],
            cwd=tmp_path,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(SOURCE), "OPENAI_API_KEY": "secret"},
        )

    return run


def done(process):
    out, err = process.communicate(timeout=60)
    return process.returncode, out, err


def test_the_plan_is_shown_and_nothing_is_asked_without_a_yes(start, model):
    code, out, err = done(start("--price", "0.15,0.60"))
    assert (code, out) == (2, "") and "confirmation_needed" in err
    assert "up to 5 rows by m: 5 requests to write, and 5 to judge them" in err
    assert "tokens in" in err and "about $" in err
    assert not model.asked


def test_rows_and_their_origin_are_written(start, model, tmp_path):
    code, out, err = done(start("--yes"))
    assert (code, out) == (0, "rows.jsonl\n"), err
    rows = (tmp_path / "rows.jsonl").read_text().splitlines()
    aside = [json.loads(line) for line in (tmp_path / "rows.provenance.jsonl").read_text().splitlines()]
    assert len(rows) == len(aside) == 5
    assert [one["row"] for one in aside] == [1, 2, 3, 4, 5] and aside[0]["document"] == "manual.md"
    assert "document" not in rows[0] and set(model.keys) == {"Bearer secret"}
    assert done(start("--yes"))[0] == 5  # never over a file that is there


def test_ctrl_c_keeps_what_was_got_and_the_next_call_goes_on(start, model, tmp_path):
    process = start("--yes")

    def interrupt(number):
        if number == 3:
            process.send_signal(signal.SIGINT)

    model.before = interrupt
    code, out, err = done(process)
    assert (code, out) == (6, "") and "Nothing generated is lost" in err
    assert not (tmp_path / "rows.jsonl").exists()
    asked = len(model.asked)
    assert asked in (3, 4)
    model.before = lambda number: None
    code, out, err = done(start("--yes"))
    assert (code, out) == (0, "rows.jsonl\n"), err
    assert len(model.asked) == 10  # five to write and five to judge: none was asked twice


def test_a_killed_run_goes_on_too(start, model):
    process = start("--yes")
    model.before = lambda number: process.kill() if number == 4 else None
    assert done(process)[0] == -signal.SIGKILL
    model.before = lambda number: None
    assert done(start("--yes"))[0] == 0
    assert len(model.asked) == 11  # the answer that was under way is asked for again


def test_a_cap_is_kept_and_said(start, model):
    code, _, err = done(start("--yes", "--max-requests", "3"))
    assert code == 6 and "the cap of 3 requests is reached" in err and len(model.asked) == 3
    code, out, _ = done(start("--yes", "--max-requests", "50", "--json"))
    assert code == 0 and json.loads(out)["kept"] == 5 and len(model.asked) == 10


def test_refusals_say_what_to_mend(start, model):
    model.moods = [no(401)]
    code, _, err = done(start("--yes"))
    assert code == 3 and "--api-key-env" in err
    code, _, err = done(start("--yes", "--max-cost", "5"))
    assert code == 2 and "--price" in err
    assert done(start("--yes", "--price", "1"))[0] == 2
