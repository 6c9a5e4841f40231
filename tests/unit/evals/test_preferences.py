"""What preferences taught, judged: pairs, feedback, and nothing broken ever passes."""

import pytest

from graftwork.core.states import Verdict
from graftwork.data import Renderer
from graftwork.evals.evaluate import evaluate
from graftwork.evals.gate import PREFERENCE_GATE, decide
from graftwork.evals.results import RowResult, Scores

SEEDLING = "src/graftwork/models/seedling"


def pairs(chosen, rejected, tokens=10):
    """Scores of pairs with these losses of chosen and rejected answers."""
    rows = [
        RowResult(row=f"r{i}", tokens=tokens, loss=a, rejected_tokens=tokens, rejected_loss=b)
        for i, (a, b) in enumerate(zip(chosen, rejected, strict=True))
    ]
    return Scores(model="m", rows=tuple(rows))


def feedback(losses, wanted):
    rows = [
        RowResult(row=f"r{i}", tokens=5, loss=loss, wanted=want)
        for i, (loss, want) in enumerate(zip(losses, wanted, strict=True))
    ]
    return Scores(model="m", rows=tuple(rows))


BASE = pairs([20.0] * 20, [20.0] * 20)


@pytest.mark.parametrize(
    ("won", "verdict"),
    [(20, Verdict.PASS), (15, Verdict.PASS), (12, Verdict.INCONCLUSIVE), (9, Verdict.FAIL)],
)
def test_pairs_are_won_beyond_chance_or_not(won, verdict):
    new = pairs([21.0] * 20, [23.0] * won + [20.0] * (20 - won))
    report = decide(new, BASE, gate=PREFERENCE_GATE)
    assert report.verdict is verdict
    assert f"in {won} of 20 pairs" in " ".join(report.reasons)


def test_losses_may_rise_as_long_as_the_right_answer_wins():
    report = decide(pairs([40.0] * 20, [60.0] * 20), BASE, gate=PREFERENCE_GATE)
    assert report.verdict is Verdict.PASS
    (line,) = [line for line in report.table if line["measure"] == "preference"]
    assert (line["new"], line["base"]) == (1.0, 0.0)


def test_fewer_pairs_ranked_right_than_live_fail():
    new = pairs([19.0] * 20, [20.5] * 10 + [19.0] * 10)
    live = pairs([10.0] * 20, [30.0] * 20)
    assert decide(new, pairs([21.0] * 20, [19.5] * 20), gate=PREFERENCE_GATE).verdict is Verdict.PASS
    report = decide(new, pairs([21.0] * 20, [19.5] * 20), live, PREFERENCE_GATE)
    assert report.verdict is Verdict.FAIL
    assert "10 pairs that the live version ranks right are lost" in " ".join(report.reasons)


def test_feedback_compares_what_wanted_answers_gained():
    wanted = [True, False] * 12
    base = feedback([10.0] * 24, wanted)
    good = feedback([9.0 - 0.01 * i if want else 9.5 + 0.01 * i for i, want in enumerate(wanted)], wanted)
    assert decide(good, base, gate=PREFERENCE_GATE).verdict is Verdict.PASS
    even = feedback([9.0 + 0.1 * (i // 2) for i in range(24)], wanted)
    assert decide(even, base, gate=PREFERENCE_GATE).verdict is Verdict.FAIL
    one_sided = feedback([9.0] * 24, [True] * 24)
    verdict = decide(one_sided, feedback([10.0] * 24, [True] * 24), gate=PREFERENCE_GATE).verdict
    assert verdict is Verdict.INCONCLUSIVE


@pytest.mark.parametrize(
    "broken",
    [
        Scores.failed("m", "it crashed"),
        pairs([1.0] * 20, [float("nan")] * 20),
        pairs([1.0] * 5, [2.0] * 5),
        pairs([1.0] * 20, [2.0] * 20, tokens=9),
        Scores(model="m", rows=tuple(RowResult(row=f"r{i}", tokens=10, loss=1.0) for i in range(20))),
        Scores(
            model="m",
            rows=tuple(RowResult(row=f"r{i}", tokens=10, loss=1.0, rejected_tokens=10) for i in range(20)),
        ),
    ],
)
def test_what_is_not_whole_closes_the_gate(broken):
    assert decide(broken, BASE, gate=PREFERENCE_GATE).verdict is Verdict.INCONCLUSIVE


def test_rows_without_pairs_prove_nothing():
    plain = Scores(model="m", rows=tuple(RowResult(row=f"r{i}", tokens=10, loss=1.0) for i in range(20)))
    assert decide(plain, plain, gate=PREFERENCE_GATE).verdict is Verdict.INCONCLUSIVE


class Client:
    """Scores each token by its number; is never asked to answer."""

    async def score(self, model, tokens):
        return [None, *(-0.001 * token for token in tokens[1:])]


async def test_both_answers_of_a_pair_are_scored_and_only_they():
    renderer = Renderer.load(__import__("pathlib").Path(SEEDLING))
    asked = {"messages": [{"role": "user", "content": "Is it late?"}]}
    pair = {
        "input": asked,
        "preferred_output": [{"role": "assistant", "content": "Yes, it is."}],
        "non_preferred_output": [{"role": "assistant", "content": "No."}],
    }
    told = {"input": asked, "output": pair["preferred_output"], "label": True}
    found = await evaluate(Client(), "m", [pair, told], renderer)
    first, second = found.rows
    assert first.tokens > first.rejected_tokens > 0
    assert first.loss is not None and first.rejected_loss is not None
    assert (second.loss, second.tokens, second.wanted) == (first.loss, first.tokens, True)
    assert first.answer is None and first.prompt == "Is it late?"
    assert found.measures()["preference"] is not None
