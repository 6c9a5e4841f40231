"""Strict parsing: everything Python's json would let pass, and nothing that is right refused."""

import json
import math

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from graftwork.data import validate
from graftwork.data.strict_json import depth, parse, strings

VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0")),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text('ab":\\ ', max_size=3), inner, max_size=4)
    ),
    max_leaves=20,
)


@given(VALUES, st.booleans(), st.sampled_from([None, 1]))
def test_right_json_comes_back_without_complaint(value, ascii_only, indent):
    raw = json.dumps(value, ensure_ascii=ascii_only, indent=indent).encode()
    found, defects = parse(raw)
    assert defects == []
    assert found == value


KEYS = st.text('ab":\\ \u0041', max_size=3)


@given(st.lists(st.tuples(KEYS, st.text('":\\x ', max_size=4)), max_size=6), st.booleans(), st.booleans())
def test_keys_that_stand_twice_are_found_however_they_are_written(pairs, ascii_only, spaced):
    def text(value):
        escaped = {'"': "\\u0022", ":": "\\u003a"} if spaced else {}
        inner = "".join(escaped.get(c) or json.dumps(c, ensure_ascii=ascii_only)[1:-1] for c in value)
        return f'"{inner}"'

    body = ",".join(f"{text(key)}{' ' if spaced else ''}:{text(value)}" for key, value in pairs)
    _, defects = parse(f'{{"top": [{{{body}}}]}}'.encode())
    doubled = {key for key, _ in pairs if [k for k, _ in pairs].count(key) > 1}
    assert {d.field for d in defects} == {f"top[0].{key}" for key in doubled}
    assert {d.code for d in defects} <= {"duplicate_key"}


@pytest.mark.parametrize(
    ("raw", "code"),
    [
        (b'{"a": 1e400}', "nonfinite_number"),
        (b'{"a": -1e999}', "nonfinite_number"),
        (b'{"a": [NaN]}', "nonfinite_number"),
        (b'{"a": -Infinity}', "nonfinite_number"),
        (b'{"a": "\\udc00"}', "lone_surrogate"),
        (b'{"\\ud800": 1}', "lone_surrogate"),
        (b'{"a": "\xed\xa0\x80"}', "invalid_utf8"),
        (b'{"a": "\xc0\xaf"}', "invalid_utf8"),
        (b'{"a": "\\u0000"}', "nul_character"),
        (b'{"a\\u0000": ""}', "nul_character"),
        (b'{"a": "\0"}', "nul_character"),
        (b'{"a": "\t"}', "invalid_json"),
        (b"{'a': 1}", "invalid_json"),
        (b'{"a": 1} x', "invalid_json"),
        (b'{"a": 01}', "invalid_json"),
        (b'{"a": 1,}', "invalid_json"),
        (b"[" * 100_000, "too_deep"),
        (b"[" * 500 + b"]" * 500, "too_deep"),
        (b'{"a":' * 40 + b"1" + b"}" * 40, "too_deep"),
        (b"", "invalid_json"),
        (b"9" * 5000 + b"x", "invalid_json"),
    ],
)
def test_each_mistake_has_its_code(raw, code):
    _, defects = parse(raw)
    assert [d.code for d in defects] == [code]


def test_an_escaped_backslash_before_u0000_is_no_nul():
    assert parse(b'{"a": "\\\\u0000"}') == ({"a": "\\u0000"}, [])


def test_huge_integers_do_not_raise():
    value, defects = parse(b'{"a": ' + b"9" * 300 + b"}")
    assert defects == [] and math.isfinite(value["a"])


def test_depth_and_strings():
    assert [depth(v) for v in (1, [], [[1]], {"a": [{}]})] == [0, 1, 2, 3]
    assert set(strings({"a": ["b", {"c": "d"}]})) == {
        ("", "a"),
        ("a[0]", "b"),
        ("a[1]", "c"),
        ("a[1].c", "d"),
    }


SEED = (
    b'{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b", "weight": 1}]}\n'
    b'{"messages": [{"role": "user", "content": "\\ud83d\\ude00"}, {"role": "assistant", "tool_calls": ['
    b'{"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}]}], "tools": []}\n'
)
NAMES = st.sampled_from([None, "a.jsonl", "a.json", "a.csv", "a.tsv", "a.parquet", "a.txt"])


@settings(max_examples=300, suppress_health_check=[HealthCheck.too_slow])
@given(st.data(), NAMES)
def test_no_mutation_of_a_good_file_makes_validate_raise(data, name):
    content = bytearray(SEED)
    for _ in range(data.draw(st.integers(0, 6))):
        place = data.draw(st.integers(0, len(content)))
        piece = data.draw(
            st.sampled_from([b"", b'"', b"{", b"[", b"null", b"\n", b"\xff", b",", b"1e999", b'"prompt":'])
        )
        cut = data.draw(st.integers(0, 8))
        content[place : place + cut] = piece
    report = validate(bytes(content), filename=name)
    assert report.findings or report.rows >= 10
    assert report.to_json()


ROWS = st.dictionaries(
    st.sampled_from(
        [
            "messages",
            "tools",
            "prompt",
            "completion",
            "input",
            "output",
            "instruction",
            "conversations",
            "text",
            "chosen",
            "rejected",
            "preferred_output",
            "non_preferred_output",
            "parallel_tool_calls",
            "system",
        ]
    ),
    VALUES
    | st.lists(
        st.dictionaries(
            st.sampled_from(
                ["role", "content", "weight", "name", "tool_calls", "tool_call_id", "from", "value"]
            ),
            VALUES
            | st.sampled_from(["user", "assistant", "tool", "system", "human", "gpt", "function_call"]),
        ),
        max_size=4,
    ),
    max_size=3,
)


@settings(max_examples=300, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(ROWS, min_size=1, max_size=3), st.sampled_from(["jsonl", "json"]))
def test_no_row_makes_validate_raise(rows, container):
    if container == "json":
        data = json.dumps(rows).encode()
    else:
        data = "\n".join(json.dumps(row) for row in rows).encode()
    report = validate(data, purpose="any")
    assert report.ok or report.findings
    assert all(f.line is None or f.line <= len(rows) for f in report.findings)


@settings(max_examples=100)
@given(st.binary(max_size=200), NAMES)
def test_no_bytes_make_validate_raise(content, name):
    assert validate(content, filename=name).to_json()
