"""The supervisor: whose end is the cause, and what it says of it."""

import json
import sys

import pytest
from tinytraining import make_run

from graftwork.core.errors import GraftworkError
from graftwork.core.states import Outcome
from graftwork.runs.documents import Result, RunError
from graftwork.training.distributed.launch import End, Ranks, explain, launch
from graftwork.training.distributed.world import LOST, World, note_of

SEATS = World().seats(2)


def ranks(tmp_path, zero, one):
    """Two processes that each run a line of Python."""
    script = tmp_path / "rank.py"
    script.write_text(f"import os, sys, signal, time\nexec({[zero, one]!r}[int(os.environ['RANK'])])\n")
    return Ranks([sys.executable, str(script)], SEATS, {}, grace=10)


@pytest.mark.parametrize(
    ("zero", "one", "end"),
    [
        ("pass", "pass", None),
        ("sys.exit(3)", "pass", End(0, 3)),
        (f"sys.exit({LOST})", "time.sleep(0.3); os.kill(os.getpid(), 9)", End(1, -9)),
        (f"sys.exit({LOST})", "pass", End(0, LOST)),
    ],
)
def test_the_cause_is_the_rank_that_did_not_end_for_want_of_another(tmp_path, zero, one, end):
    assert ranks(tmp_path, zero, one).watch() == end


def test_those_that_stay_are_killed(tmp_path):
    script = tmp_path / "rank.py"
    script.write_text("import os, sys, time\nif os.environ['RANK'] == '1': sys.exit(4)\ntime.sleep(600)\n")
    assert Ranks([sys.executable, str(script)], SEATS, {}, grace=0.2).watch() == End(1, 4)


def test_a_rank_is_named_with_how_it_ended(tmp_path):
    killed = explain(End(1, -9), 2, tmp_path)
    assert (killed.code, killed.kind) == ("rank_lost", "platform")
    assert killed.message.startswith("Rank 1 of 2 was killed by signal 9 (SIGKILL).")
    assert explain(End(0, 3), 2, tmp_path).message.startswith("Rank 0 of 2 ended with exit code 3.")
    assert "another node" in explain(End(0, LOST), 16, tmp_path).message
    error = RunError(code="out_of_memory", message="The device has too little memory.", kind="platform")
    note_of(tmp_path, 1).write_bytes(
        Result(outcome=Outcome.FAILED, error=error, step=0, tokens=0, seconds=1).to_bytes()
    )
    told = explain(End(1, 1), 2, tmp_path)
    assert (told.code, told.message) == (
        "out_of_memory",
        "Rank 1 of 2 ended with exit code 1: The device has too little memory.",
    )


def test_a_run_of_another_trainer_starts_its_own_processes(tmp_path):
    uri = make_run(tmp_path / "run")
    spec = json.loads((tmp_path / "run/spec.json").read_text())
    (tmp_path / "run/spec.json").write_text(json.dumps({**spec, "trainer": "axolotl"}))
    with pytest.raises(GraftworkError) as caught:
        launch([uri], 2, World(), {})
    assert caught.value.code == "trainer_is_one_process"
    with pytest.raises(GraftworkError):
        launch([uri], 0, World(), {})
