"""Synthetic rows against a server that also says no: nothing got is lost, nothing bad is kept."""

import itertools
import json
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from moodymodel import DROP, MoodyModel, fine, no

from graftwork.cli.model_client import TRIES, ModelClient
from graftwork.core.errors import Conflict, InvalidRequest, PlatformError, Unauthorized, Unavailable
from graftwork.data import validate
from graftwork.data.report import UsableRow
from graftwork.data.synth.journal import Journal
from graftwork.data.synth.prompts import Unusable, pairs_of, score_of
from graftwork.data.synth.run import Run, Settings, estimate
from graftwork.data.synth.sources import from_documents, from_seeds, passages, system_of

WORDS = "river copper lantern meadow engine violet harbour cactus winter basket thunder pepper".split()  # noqa: SIM905
TALE = itertools.count()


def writer(body):
    """New questions each time; a judge gives 5, or 2 where the answer is poor."""
    system, asked = body["messages"][0]["content"], body["messages"][1]["content"]
    if "grade" in system:
        return json.dumps({"score": 2 if "poor" in asked else 5})
    count = int(re.search(r"Give (\d+)", asked)[1])
    rows = []
    for _ in range(count):
        number = next(TALE)
        words = " ".join(WORDS[(number * 7 + k * (number % 5 + 1)) % 12] + str(number * k) for k in range(6))
        rows.append({"question": f"What of {words}?", "answer": f"It is {number} {words[::-1]}."})
    return json.dumps({"rows": rows})


@pytest.fixture
def model():
    with MoodyModel(writer) as made:
        yield made


@pytest.fixture
def naps():
    return []


@pytest.fixture
def client(model, naps):
    async def sleep(seconds):
        naps.append(seconds)

    return ModelClient(model.url, "secret", sleep=sleep)


@pytest.fixture
def items(tmp_path):
    for number in range(3):
        text = f"# Part {number}\n\nAll about {WORDS[number]} and {WORDS[number + 3]}.\n"
        (tmp_path / f"{number}.md").write_text(text)
    return from_documents([tmp_path], 4)


async def made_by(client, items, path, settings=None, **options):
    settings = settings or Settings(model="writer", judge="judge", parallel=1)
    with Journal(path, {"v": 1}) as journal:
        return await Run(items, settings, client.ask, journal, **options).make(), journal


async def test_rows_are_made_judged_validated_and_their_origin_kept_aside(model, client, items, tmp_path):
    made, journal = await made_by(client, items, tmp_path / "j")
    assert made.complete and made.counts["kept"] == len(made.rows) == 12
    assert validate(made.data, filename="x.jsonl").ok
    assert {frozenset(row) for row in made.rows} == {frozenset({"messages"})}
    first = made.provenance[0]
    assert (first["row"], first["model"], first["judge"], first["score"]) == (1, "writer", "judge", 5.0)
    assert Path(first["document"]).name == "0.md" and first["item"] == items[0].id
    assert journal.spent == {"requests": 15, "prompt_tokens": 1500, "completion_tokens": 150}
    assert set(model.keys) == {"Bearer secret"}
    await client.close()


async def test_a_server_that_says_no_is_asked_again_and_waited_for(model, client, naps, items, tmp_path):
    model.moods = [
        no(429, Retry_After="7"),
        no(500),
        no(503),
        DROP,
        (200, {}, b'{"choices": [{"mess'),
        (200, {}, b"[]"),
        fine("I would rather not."),
        fine('{"rows": [{"question": "Cut', finish="length"),
    ]
    made, _ = await made_by(client, items, tmp_path / "j", Settings(model="writer", parallel=1))
    assert made.complete and made.counts["failed"] == 0 and made.counts["kept"] == 12
    assert naps[0] == 7.0 and len(naps) == 6
    assert naps[1:3] == sorted(naps[1:3])  # each pause is longer
    await client.close()


async def test_an_item_that_never_gives_anything_is_told_not_asked_for_ever(model, client, items, tmp_path):
    model.moods = [fine("nonsense")] * 3
    made, _ = await made_by(client, items, tmp_path / "j", Settings(model="writer", parallel=1))
    assert made.complete and made.counts["failed"] == 1 and made.counts["kept"] == 8
    await client.close()


async def test_what_will_not_pass_ends_the_run_and_loses_nothing(model, client, items, tmp_path):
    good = fine(writer({"messages": [{"content": ""}, {"content": "Give 4."}]}))
    for refusal, error in ((no(401), Unauthorized), (no(400), InvalidRequest), (no(501), PlatformError)):
        model.moods = [good, refusal]
        path = tmp_path / f"j{refusal[0]}"
        with pytest.raises(error, match=str(refusal[0])):
            await made_by(client, items, path, Settings(model="writer", parallel=1))
        with Journal(path, {"v": 1}) as journal:
            assert len(journal.items) == 1
    model.moods = [no(500)] * TRIES
    with pytest.raises(Unavailable, match="failed"):
        await made_by(client, items, tmp_path / "down", Settings(model="writer", parallel=1))
    await client.close()


class After:
    """Says stop once so many requests were made."""

    def __init__(self, model, count):
        self.model, self.count = model, count

    def is_set(self):
        return len(self.model.asked) >= self.count


async def test_an_interrupted_run_goes_on_where_it_was(model, client, items, tmp_path):
    path = tmp_path / "j"
    first, _ = await made_by(client, items, path, stop=After(model, 2))
    assert not first.complete and "interrupted" in first.why and len(model.asked) == 2
    second, _ = await made_by(client, items, path, stop=After(model, 8))
    assert not second.complete and len(model.asked) == 8
    whole, journal = await made_by(client, items, path)
    assert whole.complete and whole.counts["kept"] == 12
    assert len(model.asked) == journal.spent["requests"] == 15  # nothing was asked twice
    again, _ = await made_by(client, items, path)
    assert again.data == whole.data and len(model.asked) == 15
    await client.close()


async def test_a_crash_between_any_two_bytes_of_the_journal_is_survived(model, client, items, tmp_path):
    whole, _ = await made_by(client, items, tmp_path / "j", Settings(model="writer", parallel=1))
    data = (tmp_path / "j").read_bytes()
    for cut in range(0, len(data), 97):
        path = tmp_path / f"cut{cut}"
        path.write_bytes(data[:cut])
        with Journal(path, {"v": 1}) as journal:
            known = [item for item in items if item.id in journal.items]
            assert known == items[: len(known)]
            journal.item("more", {"failed": "x"})
        with Journal(path, {"v": 1}) as journal:
            assert "more" in journal.items
    assert whole.complete
    await client.close()


async def test_caps_hold_over_all_runs(model, client, items, tmp_path):
    path = tmp_path / "j"
    few = Settings(model="writer", judge="judge", parallel=4, max_requests=5)
    made, _ = await made_by(client, items, path, few)
    assert not made.complete and "cap of 5" in made.why and len(model.asked) == 5
    again, _ = await made_by(client, items, path, few)
    assert len(model.asked) == 5 and not again.complete
    # a request costs 100 + 10 tokens: 110 micro-dollars at a dollar a million
    cheap = Settings(model="writer", parallel=1, max_cost=250, prices=(1_000_000, 1_000_000))
    made, journal = await made_by(client, items, tmp_path / "k", cheap)
    assert "cost" in made.why and journal.spent["requests"] == 2
    await client.close()


async def test_rows_like_seeds_or_each_other_and_poor_ones_are_dropped(model, client, tmp_path):
    said = {"system": "S", "user": "The seed question?", "assistant": "The seed answer."}
    seed = {"messages": [{"role": role, "content": text} for role, text in said.items()]}
    seeds = [UsableRow(1, seed)]
    rows = [
        {"question": "the SEED question?", "answer": "Another answer entirely."},
        {"question": "A fresh and new question about lanterns?", "answer": "They give light at night."},
        {"question": "A fresh and new question about lanterns?", "answer": "Something else."},
        {"question": "A poor one about cacti and harbours?", "answer": "poor"},
        {"question": "", "answer": "no question"},
    ]
    model.moods = [fine(json.dumps({"rows": rows}))]
    items = from_seeds(seeds, 5, 5, 1, "seeds.jsonl")
    settings = Settings(model="writer", judge="judge", parallel=1)
    made, _ = await made_by(client, items, tmp_path / "j", settings, seeds=[seed], system=system_of(seeds))
    assert [row["messages"][1]["content"] for row in made.rows] == [
        "A fresh and new question about lanterns?"
    ]
    assert made.rows[0]["messages"][0] == {"role": "system", "content": "S"}
    assert (made.counts["duplicates"], made.counts["below"], made.counts["kept"]) == (2, 1, 1)
    assert made.provenance[0]["seeds"] == "seeds.jsonl" and made.provenance[0]["lines"] == [1]
    await client.close()


async def test_a_judge_without_a_score_keeps_nothing(model, client, items, tmp_path):
    model.answer = lambda body: "great!" if "grade" in body["messages"][0]["content"] else writer(body)
    made, _ = await made_by(client, items[:1], tmp_path / "j")
    assert made.complete and made.counts["unscored"] == 4 and made.counts["kept"] == 0
    await client.close()


async def test_requests_keep_their_pace(model, naps, items, tmp_path):
    async def sleep(seconds):
        naps.append(seconds)

    client = ModelClient(model.url, None, per_minute=60, sleep=sleep)
    await made_by(client, items, tmp_path / "j", Settings(model="writer", parallel=3))
    assert len(naps) == 2 and 0.5 < naps[0] <= 1.0 < naps[1] <= 2.0
    assert set(model.keys) == {None}
    await client.close()


def test_a_journal_belongs_to_one_plan(tmp_path):
    Journal(tmp_path / "j", {"v": 1}).close()
    with pytest.raises(Conflict, match="other settings"):
        Journal(tmp_path / "j", {"v": 2})
    (tmp_path / "j").write_bytes(b'{"plan": {"v": 1}}\n{broken\n{"item": "x"}\n')
    with pytest.raises(PlatformError, match="damaged"):
        Journal(tmp_path / "j", {"v": 1})


def test_documents_fall_into_passages_under_their_headings(tmp_path):
    text = "# One\n\nfirst\n\nsecond\n\n## Two\n\n" + "A sentence of some length. " * 40
    found = list(passages(text, 300))
    assert found[0] == (1, "# One\n\nfirst\n\nsecond")
    assert all(passage.startswith("## Two") for _, passage in found[1:]) and len(found) > 3
    assert found[1][0] == 7
    assert all(len(passage) < 400 for _, passage in found)
    (tmp_path / "a.txt").write_bytes(b"\xff\xfe")
    with pytest.raises(InvalidRequest, match="UTF-8"):
        from_documents([tmp_path / "a.txt"], 1)
    with pytest.raises(InvalidRequest, match="no document"):
        from_documents([tmp_path / "b.txt"], 1)
    (tmp_path / "a.txt").write_text("  \n")
    with pytest.raises(InvalidRequest, match="no text"):
        from_documents([tmp_path], 1)


@given(
    st.lists(st.sampled_from(["alpha", "beta. ", "gamma", "\n\n", "\n", " "]), max_size=80),
    st.integers(20, 200),
)
def test_no_letter_of_a_document_is_lost(parts, size):
    text = "".join(parts)
    found = [passage for _, passage in passages(text, size)]
    assert "".join("".join(found).split()) == "".join(text.split())
    assert all(found)


def test_seeds_are_drawn_by_the_seed_alone():
    rows = [UsableRow(n, {"prompt": f"q{n}", "completion": f"a{n}"}) for n in range(20)]
    one, two = from_seeds(rows, 23, 5, 1, "s"), from_seeds(rows, 23, 5, 1, "s")
    assert one == two != from_seeds(rows, 23, 5, 2, "s")
    assert [item.count for item in one] == [5, 5, 5, 5, 3] and len({item.id for item in one}) == 5
    with pytest.raises(InvalidRequest, match="No seed row"):
        from_seeds([UsableRow(1, {"text": "only text"})], 5, 5, 1, "s")
    counted = estimate(one, Settings(model="m", judge="j"))
    assert (counted["rows"], counted["requests"]) == (23, 28)


@pytest.mark.parametrize(
    "text",
    [
        '{"rows": [{"question": "q", "answer": "a"}]}',
        '```json\n{"rows": [{"question": " q ", "answer": "a"}]}\n```',
        'Sure! {"rows": [{"question": "q", "answer": "a"}]} Enjoy.',
        '[{"question": "q", "answer": "a"}]',
        '[{"question": "q", "answer": "a"}, {"question": 7}, "x", {"question": "q", "answer": " "}]',
    ],
)
def test_pairs_are_found_in_what_models_write(text):
    assert pairs_of(text, 5) == [("q", "a")]


@pytest.mark.parametrize(
    "text", ["", "no", "{}", '{"rows": 1}', '{"rows": []}', '{"rows": [{"question": "q"', "[1]"]
)
def test_what_is_no_answer_is_refused(text):
    with pytest.raises(Unusable):
        pairs_of(text, 5)


@pytest.mark.parametrize(
    "text", ["4", '{"score": 0}', '{"score": 6}', '{"score": true}', '{"score": "5"}', ""]
)
def test_what_is_no_score_is_refused(text):
    with pytest.raises(Unusable):
        score_of(text)
    assert score_of('{"score": 4.5}') == 4.5
