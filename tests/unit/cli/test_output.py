import json

from graftwork.cli.connection import from_answer
from graftwork.cli.output import Column, duration, sparkline, table
from graftwork.cli.watch import gate_lines, progress_line
from graftwork.core import errors


def test_a_pipe_gets_tabs_and_no_header(capsys):
    table([{"a": 1, "b": None}, {"a": "x\ty", "b": True}], [Column("a", "A"), Column("b", "B")])
    assert capsys.readouterr().out == "1\t-\nx y\tyes\n"


def test_a_table_shows_values_as_they_are(capsys):
    table([{"a": "ft:seedling:acme", "b": "[bold]x"}], [Column("a", "A"), Column("b", "B")], people=True)
    header, row = capsys.readouterr().out.splitlines()
    assert header.split() == ["A", "B"]
    assert row.split() == ["ft:seedling:acme", "[bold]x"]


def test_quiet_gives_the_first_column(capsys):
    table([{"a": 1, "b": 2}], [Column("a", "A"), Column("b", "B")], quiet=True)
    assert capsys.readouterr().out == "1\n"


def test_json_gives_the_rows(capsys):
    table([{"a": 1}], [Column("a", "A")], as_json=True)
    assert json.loads(capsys.readouterr().out) == [{"a": 1}]


def test_a_sparkline_falls_with_its_values():
    line = sparkline([8, 7, 6, 5, 4, 3, 2, 1])
    assert line == "█▇▆▅▄▃▂▁"
    assert sparkline([]) == ""
    assert sparkline([2.0, 2.0]) == "▁▁"
    assert len(sparkline([float(i) for i in range(1000)], width=32)) <= 32


def test_spans_are_for_people():
    assert [duration(s) for s in (5, 65, 3700, None)] == ["5s", "1m05s", "1h01m", "-"]


def test_progress_shows_step_loss_speed_and_eta():
    job = {
        "status": "running",
        "graftwork": {
            "phase": "training",
            "progress": {
                "step": 5,
                "total_steps": 10,
                "loss": 1.5,
                "losses": [3, 2, 1.5],
                "tokens_per_s": 3100.4,
                "eta_s": 12,
            },
        },
    }
    assert progress_line(job) == "training  step 5/10  █▃▁  loss 1.500  3,100 tok/s  ETA 12s"


def test_the_gate_is_a_table_with_reasons():
    gate = {
        "name": "default",
        "verdict": "pass",
        "table": [{"measure": "held-out loss", "base": 3.0, "live": None, "new": 0.5}],
        "reasons": ["Held-out loss is lower than the base's."],
    }
    lines = gate_lines(gate)
    assert lines[0] == "Gate default: PASS"
    assert lines[2].split() == ["held-out", "loss", "3.0000", "-", "0.5000"]
    assert lines[-1] == "  - Held-out loss is lower than the base's."


def test_the_servers_errors_come_back_as_ours():
    error = from_answer(
        409, json.dumps({"error": {"message": "Gone by.", "code": "alias_moved", "param": None}})
    )
    assert isinstance(error, errors.Conflict)
    assert error.code == "alias_moved"
    assert isinstance(from_answer(502, "<html>"), errors.PlatformError)
