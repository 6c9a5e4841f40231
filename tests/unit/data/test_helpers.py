"""Splitting, deduplicating, mixing, counting and comparing data sets."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graftwork.data import canonical, validate
from graftwork.data.dedup import dedup
from graftwork.data.diff import diff
from graftwork.data.divide import divide
from graftwork.data.mix import Source, mix
from graftwork.data.near import near_groups, text_of
from graftwork.data.report import UsableRow
from graftwork.data.stats import Spread, conflicts, labels_of, stats

WORDS = [f"{a}{b}{c}" for a in "bdfgklmnprst" for b in "aeiou" for c in ("n", "rk", "st", "lla")]


def chat(question, answer, system=None):
    head = [{"role": "system", "content": system}] if system else []
    return {
        "messages": [*head, {"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    }


def usable(rows):
    return [UsableRow(line, row) for line, row in enumerate(rows, 1)]


def classified(count, seed=0, labels=("network", "billing", "access")):
    draw = random.Random(seed)
    weights = [0.7, 0.2, 0.1]
    return usable(
        chat(" ".join(draw.choice(WORDS) for _ in range(20)), draw.choices(labels, weights)[0])
        for _ in range(count)
    )


# deduplication


def test_every_kind_of_copy_is_dropped_once_and_told():
    long = " ".join(WORDS[:50])
    rows = usable(
        [
            chat(long, "a b c"),
            chat("Other", "x"),
            chat(long, "a b c"),
            chat(long.upper().replace(" ", "  "), "A b c"),
            chat(long + " extra", "a b c"),
        ]
    )
    found = dedup(rows)
    assert [item.line for item in found.kept] == [1, 2]
    assert [(one.line, one.of, one.how) for one in found.dropped] == [
        (3, 1, "exact"),
        (4, 1, "loose"),
        (5, 1, "near"),
    ]
    assert found.dropped[2].similarity < 1
    assert [item.line for item in dedup(rows, None).kept] == [1, 2, 5]
    told = found.to_json()
    assert (told["rows"], told["kept"], told["exact"], told["loose"], told["near"]) == (5, 2, 1, 1, 1)


@settings(deadline=None, max_examples=40)
@given(st.lists(st.sampled_from(["a a a", "b b b b", "A a  a", "c"]), max_size=12))
def test_deduplicating_twice_changes_nothing(questions):
    once = dedup(usable(chat(question, "x") for question in questions))
    twice = dedup(usable(once.rows))
    assert twice.rows == once.rows and not twice.dropped
    assert len(once.kept) + len(once.dropped) == len(questions)


# splitting


def test_parts_have_their_shares_of_all_and_of_every_class():
    rows = classified(400)
    found = divide(rows, {"train": 0.8, "valid": 0.1, "test": 0.1}, seed=7)
    sizes = {name: len(part) for name, part in found.parts.items()}
    assert sum(sizes.values()) == 400
    assert abs(sizes["train"] - 320) <= 3 and abs(sizes["valid"] - 40) <= 3
    whole = {
        label: sum(found.classes[part].get(label, 0) for part in sizes) for label in found.classes["train"]
    }
    for label, count in whole.items():
        assert abs(found.classes["valid"].get(label, 0) - count / 10) <= 1.5
    lines = [item.line for part in found.parts.values() for item in part]
    assert sorted(lines) == list(range(1, 401))
    assert [item.line for item in found.parts["train"]] == sorted(item.line for item in found.parts["train"])


def test_no_part_knows_a_near_duplicate_of_anothers_row():
    draw = random.Random(3)
    plain = [item.row for item in classified(150, seed=4)]
    copies = []
    for row in plain[:80]:
        words = row["messages"][0]["content"].split()
        words[draw.randrange(len(words))] = draw.choice(WORDS)
        copies.append(chat(" ".join(words), row["messages"][1]["content"]))
    rows = usable(plain + copies)
    found = divide(rows, {"train": 0.7, "valid": 0.3}, seed=1, threshold=0.7)
    groups = near_groups([text_of(item.row) for item in rows], 0.7)
    home = {item.line: name for name, part in found.parts.items() for item in part}
    for number, group in enumerate(groups):
        assert home[number + 1] == home[group + 1]
    assert found.groups >= 70


def test_the_split_depends_on_content_and_seed_alone():
    rows = classified(100)
    shuffled = usable([rows[n].row for n in random.Random(1).sample(range(100), 100)])

    def held(source, seed):
        part = divide(source, {"train": 0.8, "valid": 0.2}, seed).rows("valid")
        return sorted(text_of(row) for row in part)

    assert held(rows, 1) == held(shuffled, 1) != held(rows, 2)


def test_small_parts_get_a_row_and_impossible_ones_do_not():
    found = divide(classified(12), {"train": 0.97, "valid": 0.03}, seed=1)
    assert len(found.parts["valid"]) == 1
    alike = usable([chat("The very same question", "x")] * 5)
    same = divide(alike, {"train": 0.5, "valid": 0.5}, seed=1)
    assert sorted(len(part) for part in same.parts.values()) == [0, 5]
    with pytest.raises(ValueError, match="add up to 1"):
        divide(alike, {"train": 0.5, "valid": 0.6}, seed=1)


@settings(deadline=None, max_examples=30)
@given(st.integers(2, 60), st.floats(0.05, 0.5), st.integers(0, 99))
def test_sizes_are_close_to_the_shares(count, share, seed):
    found = divide(classified(count, seed=9), {"train": 1 - share, "valid": share}, seed)
    assert abs(len(found.parts["valid"]) - share * count) <= 1.5
    assert len(found.parts["valid"]) >= 1


# mixing


def test_sources_are_taken_by_weight_without_repeating():
    one, two = (
        usable(chat(f"one {n}", "x") for n in range(100)),
        usable(chat(f"two {n}", "x") for n in range(30)),
    )
    found = mix([Source("one", one, 3), Source("two", two, 1)], seed=1)
    assert [(source.taken, source.repeated) for source in found.sources] == [(90, 1), (30, 1)]
    assert len({text_of(row) for row in found.rows}) == 120
    first = [text_of(row).split()[0] for row in found.rows[:40]]
    assert 0 < first.count("two") < 25  # shuffled


def test_a_total_repeats_scarce_rows_evenly():
    one, two = (
        usable(chat(f"one {n}", "x") for n in range(100)),
        usable(chat(f"two {n}", "x") for n in range(7)),
    )
    found = mix([Source("one", one), Source("two", two)], seed=1, total=41)
    counts = [source.taken for source in found.sources]
    assert sorted(counts) == [20, 21] and len(found.rows) == 41
    times = [sum(text_of(row) == f"two {n} x" for row in found.rows) for n in range(7)]
    assert set(times) <= {2, 3}


def test_a_mixture_is_the_same_for_the_same_seed():
    sources = [Source("a", classified(40), 1), Source("b", classified(40, seed=5), 2)]
    assert (
        canonical(mix(sources, 1).rows) == canonical(mix(sources, 1).rows) != canonical(mix(sources, 2).rows)
    )


def test_what_cannot_be_mixed_is_refused():
    rows = classified(3)
    pairs = usable([{"prompt": "a", "completion": "b"}])
    for sources, total, words in (
        ([Source("a", rows, 0)], None, "above 0"),
        ([Source("a", [])], None, "no rows"),
        ([Source("a", rows), Source("b", pairs)], None, "different kinds"),
        ([Source("a", rows), Source("b", rows)], 1, "one of each"),
    ):
        with pytest.raises(ValueError, match=words):
            mix(sources, 1, total)


@settings(deadline=None, max_examples=50)
@given(st.lists(st.floats(0.01, 100), min_size=1, max_size=6), st.integers(6, 200))
def test_a_total_is_met_exactly(weights, total):
    sources = [
        Source(str(n), usable([chat(f"{n} {m}", "x") for m in range(3)]), w) for n, w in enumerate(weights)
    ]
    found = mix(sources, 1, total)
    assert len(found.rows) == total and all(source.taken >= 1 for source in found.sources)


# statistics


def report(rows, purpose="any"):
    return validate(canonical(rows), purpose=purpose)


def test_numbers_of_a_classifier_are_counted():
    rows = [item.row for item in classified(100)] + [chat("same", "network"), chat("same", "billing")]
    rows.append(rows[0])
    found = stats(report(rows))
    assert found.rows == 103 and found.kinds == {"chat": 103} and found.duplicates == 1
    assert set(found.labels) == {"network", "billing", "access"} and 0 < found.balance < 0.4
    assert found.roles == {"user": 103, "assistant": 103} and found.without_system == 103
    assert [(conflict.lines, conflict.answers) for conflict in found.conflicts] == [((101, 102), 2)]
    assert found.messages == Spread(2, 2, 2, 2, 2.0)
    assert found.findings == {"duplicate_row": 1}
    assert found.to_json()["labels"] == found.labels


def test_long_or_various_answers_are_no_classes():
    assert labels_of([chat(f"q{n}", f"answer {n}") for n in range(50)]) == {}
    assert labels_of([chat(f"q{n}", "x" * 100) for n in range(50)]) == {}
    assert labels_of([chat(f"q{n}", "always") for n in range(50)]) == {}
    assert labels_of([]) == {}
    assert stats(report([chat(f"q{n}", f"answer {n}") for n in range(12)])).balance is None


def test_tools_and_systems_are_counted():
    call = {"id": "c", "type": "function", "function": {"name": "look", "arguments": "{}"}}
    row = {
        "messages": [
            {"role": "system", "content": "S"},
            {"role": "user", "content": "u"},
            {"role": "assistant", "tool_calls": [call]},
            {"role": "tool", "content": "r", "tool_call_id": "c"},
            {"role": "assistant", "content": "done"},
        ],
        "tools": [{"type": "function", "function": {"name": "look"}}],
    }
    found = stats(report([row, chat("u", "a", system="S2")]))
    assert (found.tools, found.calls, found.systems, found.without_system) == (1, {"look": 1}, 2, 0)
    assert found.turns == Spread(1, 2, 2, 2, 1.5)


def test_prompts_and_pairs_conflict_by_what_is_asked():
    rows = usable([{"prompt": "p", "completion": "1"}, {"prompt": "p", "completion": "2"}, {"text": "t"}])
    assert [conflict.lines for conflict in conflicts(rows)] == [(1, 2)]


# comparing


def test_rows_are_removed_added_changed_moved_or_the_same():
    long = " ".join(WORDS[:50])
    before = usable(
        [chat("keep", "1"), chat("ask", "old"), chat(long, "x"), chat("gone", "1"), chat("twice", "1")]
    )
    after = usable(
        chat(*pair)
        for pair in [
            ("twice", "1"),
            ("keep", "1"),
            ("ask", "new"),
            (long + " more", "x"),
            ("fresh", "1"),
            ("twice", "1"),
        ]
    )
    found = diff(before, after)
    assert found.removed == (4,) and found.added == (5, 6) and found.same == 2 and found.moved == 1
    assert [(one.before, one.after, one.by) for one in found.changed] == [(2, 3, "question"), (3, 4, "near")]
    assert "answer" in found.changed[0].fields and "answer" not in found.changed[1].fields
    assert found.to_json()["equal"] is False


def test_formats_do_not_matter_to_a_comparison():
    alpaca = b'[{"instruction": "Say it", "input": "", "output": "it"}]'
    chats = canonical([chat("Say it", "it")])
    one, two = validate(alpaca, purpose="any"), validate(chats, purpose="any")
    found = diff(one.usable or (), two.usable or ())
    assert found.to_json()["equal"] and found.same == 1


@settings(deadline=None, max_examples=50)
@given(st.lists(st.sampled_from("abcdef"), max_size=10), st.lists(st.sampled_from("abcdef"), max_size=10))
def test_every_row_is_accounted_for_once(one, two):
    before, after = usable(chat(q, q) for q in one), usable(chat(q, q) for q in two)
    found = diff(before, after)
    assert len(one) == found.same + len(found.removed) + len(found.changed)
    assert len(two) == found.same + len(found.added) + len(found.changed)
