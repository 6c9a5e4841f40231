"""Measuring a scripted model: one token is one word, its log-probability is given by the script."""

import asyncio
import math

import pytest

from graftwork.core.errors import InvalidRequest, NotFound, Unavailable
from graftwork.data.encoding import Encoded
from graftwork.data.rows import fingerprint
from graftwork.evals.evaluate import RETRIES, evaluate, select
from graftwork.evals.results import Scores
from graftwork.testing.fake_clock import FakeClock

NO_TEMPLATE = InvalidRequest("The base model has no chat template.", code="chat_template_missing")


class Words:
    """A renderer: words are tokens (numbered by length), the last words of a row carry loss."""

    fails_on = "unrenderable"

    def tokenize(self, text):
        return [len(word) for word in text.split()]

    def tokenize_raw(self, text):
        return [0, *self.tokenize(text)]

    def encode(self, row, max_length=None):
        if "messages" in row:
            *before, last = row["messages"]
            asked = " ".join(m["content"] for m in before)
            wanted = last.get("content") or "call"
        else:
            asked, wanted = row.get("prompt", ""), row.get("completion", row.get("text"))
        if self.fails_on in asked:
            raise NO_TEMPLATE
        head, tail = self.tokenize_raw(asked), self.tokenize(wanted)
        labels = [False] * len(head) + [True] * len(tail)
        return Encoded((head + tail)[:max_length], labels[:max_length], len(head + tail))


class Client:
    """A scripted engine: ``answers`` by prompt; every token has the log-probability ``each``."""

    def __init__(self, answers=None, each=-0.5, calls=None):
        self.answers = answers or {}
        self.each = each
        self.calls = calls
        self.asked = []
        self.trouble = []
        self.flying = self.most = 0

    async def _meet(self, *what):
        self.asked.append(what)
        self.flying += 1
        self.most = max(self.most, self.flying)
        await asyncio.sleep(0)
        self.flying -= 1
        if self.trouble:
            raise self.trouble.pop(0)

    async def chat(self, model, messages, **options):
        await self._meet("chat", model, messages, options)
        said = self.answers.get(messages[-1]["content"], "?")
        return {"choices": [{"message": {"role": "assistant", "content": said, "tool_calls": self.calls}}]}

    async def complete(self, model, prompt, **options):
        await self._meet("complete", model, prompt, options)
        return {"choices": [{"text": self.answers.get(tuple(prompt), "?")}]}

    async def score(self, model, tokens):
        await self._meet("score", model, tokens)
        return [None, *[self.each] * (len(tokens) - 1)]


def chat(asked, wanted, **more):
    return {
        "messages": [{"role": "user", "content": asked}, {"role": "assistant", "content": wanted, **more}]
    }


def measure(client, rows, **options):
    return evaluate(client, "m", rows, Words(), **options)


async def test_a_chat_row_is_asked_and_scored():
    client = Client({"two plus two": " four\n"})
    scores = await measure(client, [chat("two plus two", "four")], label="support@3")
    [row] = scores.rows
    assert scores.model == "support@3" and scores.errors == 0
    assert (row.row, row.prompt, row.reference) == (
        fingerprint(chat("two plus two", "four")),
        "two plus two",
        "four",
    )
    assert (row.answer, row.exact, row.f1, row.rouge_l) == (" four\n", True, 1.0, 1.0)
    assert (row.tokens, row.loss) == (1, 0.5)
    assert row.json_valid is None and row.json_match is None
    [(_, model, messages, options)] = [call for call in client.asked if call[0] == "chat"]
    assert model == "m" and messages == [{"role": "user", "content": "two plus two"}]
    assert options == {"temperature": 0, "max_tokens": 2 * 1 + 32}


async def test_weights_are_not_sent_and_tools_are():
    row = chat("a", "b")
    row["messages"].insert(0, {"role": "assistant", "content": "before", "weight": 0})
    row["tools"] = [{"type": "function", "function": {"name": "f"}}]
    client = Client()
    await measure(client, [row])
    [(*_, messages, options)] = [call for call in client.asked if call[0] == "chat"]
    assert messages[0] == {"role": "assistant", "content": "before"}
    assert options["tools"] == row["tools"]


async def test_an_answer_that_is_not_learnt_is_not_asked_for():
    row = chat("a", "b")
    row["messages"] += [{"role": "user", "content": "c"}, {"role": "assistant", "content": "d", "weight": 0}]
    client = Client()
    (result,) = (await measure(client, [row])).rows
    [(*_, messages, _)] = [call for call in client.asked if call[0] == "chat"]
    assert (result.prompt, result.reference) == ("a", "b")
    assert messages == [{"role": "user", "content": "a"}]


async def test_the_loss_is_weighted_by_tokens():
    client = Client()
    client.score = lambda model, tokens: _later([None] + [-float(token) for token in tokens[1:]])
    rows = [{"prompt": "p", "completion": "aaaa aaaa aaaa"}, {"prompt": "p", "completion": "a"}]
    scores = await measure(client, rows)
    assert [row.loss for row in scores.rows] == [12.0, 1.0]
    assert scores.tokens == 4 and scores.loss == pytest.approx(13 / 4)


async def _later(value):
    return value


async def test_a_completion_row_is_asked_in_the_tokens_it_was_trained_on():
    client = Client({(0, 3, 3): "yes"})
    [row] = (await measure(client, [{"prompt": "one two", "completion": "yes"}])).rows
    assert row.exact is True and row.prompt == "one two"
    assert ("complete", "m", [0, 3, 3], {"temperature": 0, "max_tokens": 34}) in client.asked


@pytest.mark.parametrize("row", [{"text": "some words"}, {"prompt": "", "completion": "some words"}])
async def test_a_row_that_asks_nothing_has_loss_only(row):
    client = Client()
    scores = await measure(client, [row])
    assert [call[0] for call in client.asked] == ["score"]
    assert scores.rows[0].exact is None and scores.rows[0].error is None
    assert scores.asked == 0 and scores.loss == 0.5
    assert scores.measures()["exact_match"] is None


async def test_a_cut_row_has_loss_only():
    client = Client()
    [row] = (await measure(client, [chat("one two", "three four five")], max_length=4)).rows
    assert row.tokens == 1 and row.reference is None and row.error is None
    assert [call[0] for call in client.asked] == ["score"]


async def test_an_answer_may_not_outgrow_the_limits():
    client = Client()
    await measure(client, [chat("one two", "three four five")], max_tokens=7)
    await measure(client, [chat("one two", "three four five")], max_length=8)
    limits = [call[3]["max_tokens"] for call in client.asked if call[0] == "chat"]
    assert limits == [7, 8 - 6 + 3]


async def test_json_is_looked_at_where_the_reference_is_json():
    answers = {"1": '{"b": 2, "a": 1}', "2": "{oops", "3": '{"a": 0}', "4": "5"}
    rows = [chat("1", '{"a":1,"b":2}'), chat("2", "[]"), chat("3", '{"a":1}'), chat("4", "5")]
    scores = await measure(Client(answers), rows)
    assert [row.json_valid for row in scores.rows] == [True, False, True, None]
    assert [row.json_match for row in scores.rows] == [True, False, False, None]
    assert scores.measures()["json_validity"] == pytest.approx(2 / 3)
    assert scores.measures()["json_match"] == pytest.approx(1 / 3)
    assert scores.measures()["exact_match"] == pytest.approx(1 / 4)


async def test_tool_calls_are_compared_by_name_and_arguments():
    wanted = [{"id": "1", "type": "function", "function": {"name": "f", "arguments": '{"b": 1, "a": 2}'}}]
    given = [{"id": "2", "type": "function", "function": {"name": "f", "arguments": '{"a":2,"b":1}'}}]
    row = chat("call it", None, tool_calls=wanted)
    [right] = (await measure(Client(calls=given), [row])).rows
    assert right.exact is True and right.json_match is True
    given[0]["function"]["name"] = "g"
    [wrong] = (await measure(Client(calls=given), [row])).rows
    assert wrong.exact is False and wrong.json_valid is True


@pytest.mark.parametrize("each", [math.nan, -math.inf, None])
async def test_a_log_probability_that_is_no_number_is_an_error_of_its_row(each):
    scores = await measure(Client(each=each), [chat("a", "b")])
    assert scores.errors == 1 and scores.loss is None
    assert scores.rows[0].error.startswith("score_not_finite: ")


async def test_too_few_log_probabilities_are_an_error():
    client = Client()
    client.score = lambda model, tokens: _later([None])
    assert (await measure(client, [chat("a", "b")])).rows[0].error.startswith("score_mismatch: ")


@pytest.mark.parametrize("reply", [{}, {"choices": []}, {"choices": [{}]}, {"choices": None}])
async def test_an_answer_that_is_none_is_an_error(reply):
    client = Client()
    client.chat = lambda model, messages, **options: _later(reply)
    [row] = (await measure(client, [chat("a", "b")])).rows
    assert row.error.startswith("answer_malformed: ") and row.loss == 0.5


async def test_every_row_is_there_with_its_error():
    client = Client()
    client.trouble = [NotFound("no such model", code="model_not_found")]
    rows = [chat("unrenderable", "x"), chat("first", "x"), chat("second", "x")]
    scores = await measure(client, rows, concurrency=1)
    assert [row.error for row in scores.rows] == [
        "chat_template_missing: The base model has no chat template.",
        "model_not_found: no such model",
        None,
    ]
    assert (scores.errors, len(scores.rows), scores.loss) == (2, 3, None)


async def test_a_busy_engine_is_asked_again():
    client, clock = Client(), FakeClock()
    client.trouble = [Unavailable("full")] * (RETRIES - 1)
    task = asyncio.create_task(measure(client, [chat("a", "b")], clock=clock))
    await clock.advance(60)
    assert (await task).errors == 0


async def test_an_engine_that_stays_away_ends_the_evaluation():
    client, clock = Client(), FakeClock()
    client.trouble = [Unavailable("away", code="engine_unreachable")] * 1000
    task = asyncio.create_task(measure(client, [chat(str(i), "b") for i in range(20)], clock=clock))
    await clock.advance(600)
    with pytest.raises(Unavailable, match="away"):
        await task


async def test_not_more_than_so_many_requests_fly_at_once():
    client = Client()
    await measure(client, [chat(str(i), "b") for i in range(30)], concurrency=3)
    assert client.most == 3


async def test_a_bounded_evaluation_measures_the_same_rows_wherever_they_stand():
    rows = [chat(str(i), "b") for i in range(50)]
    some = select(rows, 10)
    assert len(some) == 10 and some == [row for row in rows if row in some]
    assert sorted(map(fingerprint, select(rows[::-1], 10))) == sorted(map(fingerprint, some))
    assert select(rows, 50) == rows == select(rows, 1000)
    scores = await measure(Client(), rows, max_rows=10)
    assert [row.row for row in scores.rows] == [fingerprint(row) for row in some]


async def test_no_rows_are_no_measures():
    scores = await measure(Client(), [])
    assert scores.rows == () and scores.loss is None and set(scores.measures().values()) == {None}


async def test_scores_survive_json():
    scores = await measure(Client({"a": "b"}), [chat("a", "b"), chat("unrenderable", "b")])
    assert Scores.from_json(scores.to_json()) == scores
    failed = Scores.failed("m", "it crashed")
    assert Scores.from_json(failed.to_json()) == failed
