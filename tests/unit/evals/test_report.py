import json
import math

import pytest

from graftwork.evals.gate import DEFAULT_GATE
from graftwork.evals.report import TrainerLosses, assemble, grid, text
from graftwork.evals.results import RowResult, Scores
from graftwork.evals.rules import Comparison


def scores(model, loss, right, rows=12):
    made = [
        RowResult(
            row=f"row-{i}",
            tokens=5,
            loss=5 * loss + i % 2,
            prompt=f"What is\n {i}?",
            reference=f"It is {i}",
            answer=f"It is {i}" if i < right else f"{model} does not know",
            exact=i < right,
            f1=1.0 if i < right else 0.0,
            rouge_l=0.5,
        )
        for i in range(rows)
    ]
    return Scores(model=model, rows=tuple(made))


@pytest.fixture
def comparison():
    return Comparison(
        new=scores("support@4", 0.4, 11), base=scores("seedling", 3.0, 0), live=scores("support@3", 0.5, 10)
    )


def make(comparison, **options):
    return assemble(comparison, DEFAULT_GATE.decide(comparison), **options)


def test_the_report_says_what_was_measured_and_decided(comparison):
    trainer = TrainerLosses(valid_loss=0.51, base_valid_loss=3.09, valid_tokens=60)
    report = make(comparison, trainer=trainer)
    assert report["verdict"] == report["gate"]["verdict"] == "pass"
    new = report["scores"]["new"]
    assert (new["model"], new["rows"], new["asked"], new["errors"], new["tokens"]) == (
        "support@4",
        12,
        12,
        0,
        60,
    )
    assert new["measures"]["exact_match"] == pytest.approx(11 / 12)
    assert new["exact_match_interval"]["low"] < 11 / 12 < new["exact_match_interval"]["high"]
    assert report["losses"]["new"] == {
        "trained": 0.51,
        "served": pytest.approx(0.5),
        "difference": pytest.approx(-0.01),
    }
    assert report["losses"]["base"]["served"] == pytest.approx(3.1)
    assert report["losses"]["tokens"] == {"trained": 60, "served": 60}
    assert report["statistics"]["base"]["loss_difference"]["estimate"] == pytest.approx(-2.6)
    assert report["statistics"]["live"]["exact_match"]["gained"] == 1
    assert "new" not in report["statistics"]
    assert json.loads(json.dumps(report, allow_nan=False)) == report


def test_samples_lay_the_answers_side_by_side(comparison):
    report = make(comparison, samples=2)
    assert len(report["samples"]) == 2
    assert report["samples"][0] == {
        "row": "row-0",
        "prompt": "What is\n 0?",
        "reference": "It is 0",
        "answers": {"base": "seedling does not know", "live": "It is 0", "new": "It is 0"},
    }
    assert make(comparison, samples=0)["samples"] == []


def test_every_row_is_there_with_its_hash_duplicates_too(comparison):
    twice = tuple(comparison.new.rows[:1] * 2)
    both = Comparison(new=Scores(model="n", rows=twice), base=Scores(model="b", rows=twice))
    rows = make(both)["rows"]
    assert (
        rows
        == [
            {
                "row": "row-0",
                "tokens": 5,
                "loss": {"new": 2.0, "base": 2.0},
                "exact": {"new": True, "base": True},
            }
        ]
        * 2
    )
    assert [row["row"] for row in make(comparison)["rows"]] == [f"row-{i}" for i in range(12)]


def test_without_the_trainers_losses_and_a_live_version(comparison):
    report = make(Comparison(new=comparison.new, base=comparison.base))
    assert report["losses"]["new"]["trained"] is None and report["losses"]["new"]["difference"] is None
    assert set(report["scores"]) == {"new", "base"} and set(report["statistics"]) == {"base"}
    assert report["samples"][0]["answers"].keys() == {"base", "new"}


def test_a_failed_evaluation_still_has_a_report(comparison):
    report = make(Comparison(new=Scores.failed("support@4", "it crashed"), base=comparison.base))
    assert report["verdict"] == "inconclusive"
    assert report["scores"]["new"]["error"] == "it crashed"
    assert report["samples"] == []
    assert len(report["rows"]) == 12 and report["rows"][0]["loss"] == {"base": 15.0}
    assert report["statistics"]["base"] == {"loss_difference": None, "exact_match": None, "rows": 0}
    assert "INCONCLUSIVE" in text(report)


def test_errors_and_odd_numbers_are_told_and_stay_json(comparison):
    broken = RowResult(row="row-0", tokens=5, loss=math.nan, error="server_error: it broke")
    new = Scores(model="n", rows=(broken, *comparison.new.rows[1:]))
    report = make(Comparison(new=new, base=comparison.base))
    assert report["scores"]["new"]["row_errors"] == [{"row": "row-0", "error": "server_error: it broke"}]
    assert report["rows"][0]["loss"]["new"] is None
    json.dumps(report, allow_nan=False)


TEXT = """
              base   live    new
loss         3.100  0.600  0.500
exact match  0.000  0.833  0.917
token f1     0.000  0.833  0.917
rouge l      0.500  0.500  0.500
rows            12     12     12
errors           0      0      0

gate default@1: PASS
  - Every model was measured on the same rows without an error.
""".lstrip("\n")


def test_the_text_is_a_table_a_verdict_and_some_answers(comparison):
    shown = text(make(comparison), samples=1)
    assert shown.startswith(TEXT)
    assert shown.endswith(
        "\n\nWhat is 0?\n"
        "  reference  It is 0\n"
        "  base       seedling does not know\n"
        "  live       It is 0\n"
        "  new        It is 0\n"
    )


def test_the_text_leaves_out_a_live_version_that_is_not_there(comparison):
    shown = text(make(Comparison(new=comparison.new, base=comparison.base)))
    assert "live" not in shown


def test_a_grid_puts_numbers_to_the_right():
    assert grid([["", "a", "bb"], ["long", "1", "2"]]) == "      a  bb\nlong  1   2"
