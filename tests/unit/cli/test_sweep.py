"""``graft sweep``'s own part: lists of numbers and the table."""

from __future__ import annotations

import json

import pytest

from graftwork.cli.sweep import _numbers, _show
from graftwork.core.errors import InvalidRequest


def test_lists_of_numbers():
    assert _numbers("8, 16,32", int, "ranks") == [8, 16, 32]
    assert _numbers("0.3,1", float, "rates") == [0.3, 1.0]
    assert _numbers("", int, "epochs") == []
    with pytest.raises(InvalidRequest, match="--ranks 'a' is not a list of numbers"):
        _numbers("a", int, "ranks")


def trial(number: int, losses: list[float], **more: object) -> dict[str, object]:
    given: dict[str, object] = {
        "number": number,
        "rank": 8,
        "rate": 1.0,
        "epochs": None,
        "state": "stopped",
        "job": f"ftjob-{number}",
        "step": 40,
        "losses": losses,
        "valid_loss": None,
        "trained_tokens": 100,
        "cost": "$0.01",
    }
    return {**given, **more}


def test_the_best_stands_first_and_all_costs_are_shown(capsys: pytest.CaptureFixture[str]):
    best = trial(2, [1.5, 1.2], valid_loss=1.1, state="best")
    found = {
        "state": "succeeded",
        "fine_tuned_model": "ft:x",
        "message": None,
        "cost": "$0.03",
        "trials": [trial(1, [2.0]), best, trial(3, [1.6, 1.4])],
    }
    assert _show(found, json=False) == 0
    out = capsys.readouterr()
    lines = [line.split("\t") for line in out.out.splitlines()]
    assert [line[0] for line in lines] == ["2", "3", "1"]
    assert lines[0][6:8] == ["1.1", "1.500 1.200"]
    assert "$0.01" in lines[2]
    assert "cost $0.03" in out.err
    assert _show({**found, "state": "failed"}, json=True) == 1
    assert json.loads(capsys.readouterr().out)["state"] == "failed"
