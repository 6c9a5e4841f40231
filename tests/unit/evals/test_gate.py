"""Pass, fail and inconclusive at their boundaries; and that nothing broken ever passes."""

import json
import math
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graftwork.core.states import Verdict
from graftwork.evals.gate import DEFAULT_GATE, Gate, decide
from graftwork.evals.results import RowResult, Scores
from graftwork.evals.rules import (
    EnoughRows,
    ExactMatchNotBelowBase,
    LossBetterThanBase,
    LossNotWorseThanLive,
)


def scores(losses, right=None, *, model="m", tokens=10):
    """Scores with these losses a token; the first ``right`` answers are exactly right (None: not asked)."""
    rows = [
        RowResult(
            row=f"row-{i}",
            tokens=tokens,
            loss=loss * tokens,
            reference=None if right is None else "yes",
            answer=None if right is None else ("yes" if i < right else "no"),
            exact=None if right is None else i < right,
        )
        for i, loss in enumerate(losses)
    ]
    return Scores(model=model, rows=tuple(rows))


def good(rows=20, right=18):
    return scores([0.5 + 0.01 * (i % 3) for i in range(rows)], right)


def base(rows=20, right=0):
    return scores([2.0 + 0.1 * (i % 4) for i in range(rows)], right)


def changed(before, index, **fields):
    rows = list(before.rows)
    rows[index] = replace(rows[index], **fields)
    return replace(before, rows=tuple(rows))


def test_clearly_better_weights_pass_with_a_reason_for_each_rule():
    report = decide(good(), base())
    assert report.verdict is Verdict.PASS
    assert [name for name, _ in report.findings] == [
        "Complete",
        "EnoughRows",
        "LossBetterThanBase",
        "ExactMatchNotBelowBase",
    ]
    assert all(finding.verdict is Verdict.PASS for _, finding in report.findings)
    assert "18 of 20 answers are exactly right, the base model's 0." in report.reasons
    assert all(reason.endswith(".") for reason in report.reasons)


def test_a_live_version_is_asked_about_too():
    report = decide(good(), base(), good())
    assert report.verdict is Verdict.PASS
    assert len(report.findings) == 6


def test_the_same_weights_as_the_base_fail():
    report = decide(base(), base())
    assert report.verdict is Verdict.FAIL
    assert "not below the base" in report.reasons[0]


def test_worse_weights_fail():
    assert decide(base(right=0), good(right=0)).verdict is Verdict.FAIL


def test_a_gain_that_may_be_chance_is_inconclusive():
    new = scores([1.0, 3.0] * 10)
    old = scores([3.0, 1.05] * 10)
    report = decide(new, old)
    assert report.verdict is Verdict.INCONCLUSIVE
    assert "may be chance" in report.reasons[0]


def test_one_exact_answer_fewer_than_the_base_fails():
    assert decide(good(right=5), base(right=5)).verdict is Verdict.PASS
    report = decide(good(right=4), base(right=5))
    assert report.verdict is Verdict.FAIL
    assert report.reasons[0] == "4 of 20 answers are exactly right, the base model's 5."


def test_a_clear_failure_outweighs_a_doubt():
    new, old = scores([1.0, 3.0] * 10, 4), scores([3.0, 1.05] * 10, 5)
    assert decide(new, old).verdict is Verdict.FAIL


def test_text_rows_are_judged_by_loss_alone():
    report = decide(good(right=None), base(right=None), good(right=None))
    assert report.verdict is Verdict.PASS
    assert {"ExactMatchNotBelowBase", "ExactMatchNotWorseThanLive"}.isdisjoint(n for n, _ in report.findings)


def test_slightly_worse_than_live_passes_and_significantly_worse_fails():
    live = scores([0.5 + (0.3 if i % 2 else 0.0) for i in range(20)], 18)
    slightly = scores([0.51 + (0.0 if i % 2 else 0.3) for i in range(20)], 18)
    assert decide(slightly, base(), live).verdict is Verdict.PASS
    clearly = scores([row.loss / 10 + 0.1 for row in live.rows], 18)
    report = decide(clearly, base(), live)
    assert report.verdict is Verdict.FAIL and "above the live version's" in report.reasons[0]


def test_four_answers_lost_to_live_may_be_chance_and_five_are_not():
    # One-sided exact McNemar: 0.5 ** 4 = 0.0625, 0.5 ** 5 = 0.03125, at 5 %.
    assert decide(good(right=14), base(), good(right=18)).verdict is Verdict.PASS
    report = decide(good(right=13), base(), good(right=18))
    assert report.verdict is Verdict.FAIL
    assert "5 answers that the live version has right are lost, 0 are gained" in report.reasons[0]


def test_nine_rows_are_too_few_and_ten_are_enough():
    report = decide(good(9, 9), base(9))
    assert report.verdict is Verdict.INCONCLUSIVE
    assert report.reasons[0] == "There are 9 held-out rows to measure, and 10 are needed."
    assert decide(good(10, 9), base(10)).verdict is Verdict.PASS


def test_rows_without_tokens_do_not_count_as_rows():
    new, old = good(10, 9), base(10)
    assert decide(changed(new, 0, tokens=0), changed(old, 0, tokens=0)).verdict is Verdict.INCONCLUSIVE


BREAKS = {
    "an error": lambda s: changed(s, 3, error="server_error: it broke"),
    "NaN": lambda s: changed(s, 3, loss=math.nan),
    "infinity": lambda s: changed(s, 3, loss=-math.inf),
    "no loss": lambda s: changed(s, 3, loss=None),
    "no answer": lambda s: changed(s, 3, exact=None),
    "no rows": lambda s: replace(s, rows=()),
    "a crash": lambda s: Scores.failed("m", "the engine died"),
    "a missing row": lambda s: replace(s, rows=s.rows[:-1]),
    "another row": lambda s: changed(s, 3, row="other"),
    "other tokens": lambda s: changed(s, 3, tokens=11),
    "no tokens": lambda s: replace(s, rows=tuple(replace(row, tokens=0) for row in s.rows)),
}


@pytest.mark.parametrize("which", ["new", "base", "live"])
@pytest.mark.parametrize("what", BREAKS)
def test_what_is_broken_anywhere_is_inconclusive(which, what):
    models = {"new": good(), "base": base(), "live": good(right=17)}
    assert decide(**models).verdict is Verdict.PASS
    models[which] = BREAKS[what](models[which])
    report = decide(**models)
    assert report.verdict is Verdict.INCONCLUSIVE
    assert report.reasons
    json.dumps(report.to_json(), allow_nan=False)


def test_an_error_is_told_with_its_count_and_its_first_words():
    broken = changed(changed(good(), 3, error="a: first"), 5, error="b: second")
    [reason, *_] = decide(broken, base()).reasons
    assert reason == "The evaluation of the new model has 2 errors in 20 rows (first: a: first)."


models = st.builds(
    lambda losses, right: scores(losses, right),
    st.lists(st.floats(0, 5), min_size=12, max_size=12),
    st.integers(0, 12),
)


@settings(max_examples=60, deadline=None)
@given(new=models, old=models, live=st.none() | models, data=st.data())
def test_breaking_something_never_turns_a_verdict_into_pass(new, old, live, data):
    given_ = {"new": new, "base": old, "live": live}
    which = data.draw(st.sampled_from([name for name, model in given_.items() if model is not None]))
    given_[which] = BREAKS[data.draw(st.sampled_from(sorted(BREAKS)))](given_[which])
    assert decide(**given_).verdict is Verdict.INCONCLUSIVE


@settings(max_examples=60, deadline=None)
@given(new=models, old=models)
def test_what_passes_is_better_in_both_measures(new, old):
    if decide(new, old).verdict is Verdict.PASS:
        assert new.loss < old.loss
        assert new.measures()["exact_match"] >= old.measures()["exact_match"]


def test_a_gate_without_rules_knows_nothing():
    assert decide(good(), base(), gate=Gate("empty", 1, ())).verdict is Verdict.INCONCLUSIVE


def test_a_gate_of_ones_own_cannot_leave_out_the_look_at_the_numbers():
    lenient = Gate("lenient", 3, (ExactMatchNotBelowBase(),))
    assert decide(good(3, 3), base(3), gate=lenient).verdict is Verdict.PASS
    assert decide(changed(good(), 0, error="x"), base(), gate=lenient).verdict is Verdict.INCONCLUSIVE


def test_one_row_is_too_little_for_a_comparison_of_losses():
    daring = Gate("daring", 1, (EnoughRows(minimum=1), LossBetterThanBase(), LossNotWorseThanLive()))
    assert decide(good(1, 1), base(1), good(1, 1), gate=daring).verdict is Verdict.INCONCLUSIVE


def test_the_report_names_the_gate_its_rules_and_its_numbers():
    report = decide(good(), base(), good(right=17)).to_json()
    assert (report["name"], report["version"], report["verdict"]) == ("default", 1, "pass")
    assert {"rule": "EnoughRows", "minimum": 10} in report["rules"]
    assert {"rule": "LossBetterThanBase", "confidence": 0.95} in report["rules"]
    assert report["rules"][0] == {"rule": "Complete"}
    by_rule = {finding["rule"]: finding for finding in report["findings"]}
    assert by_rule["LossBetterThanBase"]["numbers"]["high"] < 0
    assert by_rule["ExactMatchNotWorseThanLive"]["numbers"]["gained"] == 1
    assert json.loads(json.dumps(report, allow_nan=False)) == report


def test_the_table_lays_the_models_side_by_side():
    table = {line["measure"]: line for line in decide(good(), base(), good(right=17)).table}
    assert table["exact_match"] == {
        "measure": "exact_match",
        "better": "higher",
        "base": 0.0,
        "live": 0.85,
        "new": 0.9,
    }
    assert table["loss"]["better"] == "lower" and table["loss"]["base"] > table["loss"]["new"]
    assert table["rows"]["new"] == 20 and table["errors"]["live"] == 0
    assert "json_validity" not in table  # nobody has it
    assert decide(good(), base()).table[0]["live"] is None


def test_the_default_gate_is_pinned():
    """A change of a rule or parameter must raise the version: stored verdicts name it."""
    report = decide(good(), base())
    assert (DEFAULT_GATE.name, DEFAULT_GATE.version) == ("default", 1)
    assert report.rules == (
        {"rule": "Complete"},
        {"rule": "EnoughRows", "minimum": 10},
        {"rule": "LossBetterThanBase", "confidence": 0.95},
        {"rule": "ExactMatchNotBelowBase"},
        {"rule": "LossNotWorseThanLive", "confidence": 0.95},
        {"rule": "ExactMatchNotWorseThanLive", "significance": 0.05},
    )
