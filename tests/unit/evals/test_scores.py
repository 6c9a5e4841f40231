import pytest
from hypothesis import given
from hypothesis import strategies as st

from graftwork.evals.scores import (
    common_subsequence,
    exact_match,
    is_json,
    is_json_document,
    json_match,
    rouge_l,
    token_f1,
)


def test_exact_match_forgives_white_space_around_and_nothing_else():
    assert exact_match(" yes\n", "yes")
    assert exact_match("", " ")
    assert not exact_match("Yes", "yes")
    assert not exact_match("y  es", "y es")


@pytest.mark.parametrize(
    ("answer", "reference", "f1"),
    [
        ("The Eiffel Tower!", "eiffel tower", 1.0),  # articles, case and punctuation do not count
        ("Eiffel", "Eiffel Tower", 2 / 3),
        ("tower tower tower", "tower", 0.5),  # a word counts as often as the reference has it
        ("Paris", "London", 0.0),
        ("", "London", 0.0),
        ("the", "a", 1.0),  # nothing is left on both sides
    ],
)
def test_token_f1_is_squads(answer, reference, f1):
    assert token_f1(answer, reference) == pytest.approx(f1)


@pytest.mark.parametrize(
    ("answer", "reference", "score"),
    [
        # Lin 2004, section 3.1: S1 "police killed the gunman", S2 "police kill the gunman",
        # S3 "the gunman kill police": LCS of 3 and of 2 words out of 4.
        ("police kill the gunman", "police killed the gunman", 0.75),
        ("the gunman kill police", "police killed the gunman", 0.5),
        ("one", "one", 1.0),
        ("Übung macht", "übung", 2 / 3),
        ("", "x", 0.0),
        ("", "", 1.0),
    ],
)
def test_rouge_l_is_the_f_measure_of_the_longest_common_subsequence(answer, reference, score):
    assert rouge_l(answer, reference) == pytest.approx(score)


def slow_common_subsequence(left, right):
    row = [0] * (len(right) + 1)
    for a in left:
        last = row
        row = [0]
        for j, b in enumerate(right):
            row.append(last[j] + 1 if a == b else max(last[j + 1], row[j]))
    return row[-1]


words = st.lists(st.sampled_from("abcd"), max_size=80)


@given(words, words)
def test_the_bit_parallel_subsequence_is_the_textbooks(left, right):
    assert common_subsequence(left, right) == slow_common_subsequence(left, right)


@pytest.mark.parametrize("text", ['{"a": 1}', "[]", ' {"a": [true, null]}\n', "12", '"word"', "null"])
def test_json_is_accepted_as_a_whole_value(text):
    assert is_json(text)


@pytest.mark.parametrize(
    "text", ["", "{", "{'a': 1}", '{"a": NaN}', '{"a": 1} ok', '```json\n{"a": 1}\n```', "[1,]"]
)
def test_what_is_not_strict_json_is_not_accepted(text):
    assert not is_json(text)
    assert not json_match(text, text)


def test_only_objects_and_arrays_are_documents():
    assert is_json_document('{"a": 1}') and is_json_document(" [1]")
    assert not any(map(is_json_document, ["12", '"word"', "true", "{", "word", ""]))


@pytest.mark.parametrize(
    ("answer", "reference", "same"),
    [
        ('{"a": 1, "b": [2]}', '{"b":[2],"a":1}', True),
        ('{"a": 1.0}', '{"a": 1}', True),
        ('{"a": true}', '{"a": 1}', False),
        ('{"a": 1}', '{"a": 1, "b": null}', False),
        ("[1, 2]", "[2, 1]", False),
        ('{"a": "1"}', '{"a": 1}', False),
        ("[[true]]", "[[true]]", True),
        ("not json", '{"a": 1}', False),
    ],
)
def test_json_is_compared_by_value(answer, reference, same):
    assert json_match(answer, reference) is same
