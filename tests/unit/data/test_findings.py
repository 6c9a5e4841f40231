"""Every finding of the table can be had, by itself, at the place it names."""

import io
import json

import pyarrow
import pyarrow.parquet
import pytest

from graftwork.data import FINDINGS, Renderer, check_pair, validate
from graftwork.data.findings import MAX_FINDINGS, Findings

USER, ANSWER = {"role": "user", "content": "Say yes."}, {"role": "assistant", "content": "Yes."}
TOOLS = [{"type": "function", "function": {"name": "f"}}]
CALL = {"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
RESULT = {"role": "tool", "tool_call_id": "1", "content": "ok"}


def chat(*messages, **row):
    return {"messages": list(messages), **row}


def calling(*calls, answer=RESULT, tools=TOOLS):
    row = chat(USER, {"role": "assistant", "tool_calls": list(calls)}, answer, ANSWER)
    return {**row, "tools": tools} if tools else row


def good(count=10, start=0):
    return [chat({"role": "user", "content": f"Number {n}?"}, ANSWER) for n in range(start, start + count)]


def lines(*rows):
    return b"".join((row if isinstance(row, bytes) else json.dumps(row).encode()) + b"\n" for row in rows)


def one(row):
    """Ten good rows, then this one, on line 11."""
    return lines(*good(), row)


def others(form, row):
    """Ten good rows of another format, then this one."""
    return lines(*({key: f"{value} {n}" for key, value in form.items()} for n in range(10)), row)


PC = {"prompt": "a", "completion": "b"}
IO = {"input": "a", "output": "b"}
ALPACA = {"instruction": "a", "input": "", "output": "b"}
LONG = "word " * 400

LINE_CASES = [
    ("blank_line", one(b"  "), 11, None),
    (
        "line_too_long",
        one({**good(1, 90)[0], "messages": [USER, {**ANSWER, "content": "x" * (1 << 20)}]}),
        11,
        None,
    ),
    ("truncated_last_line", lines(*good()) + b'{"messages": [{"role": "us', 11, None),
    ("consecutive_roles", one(chat(USER, USER, ANSWER)), 11, "messages[1].role"),
    (
        "content_part_unsupported",
        one(chat({**USER, "content": [{"type": "image_url"}]}, ANSWER)),
        11,
        "messages[0].content[0]",
    ),
    (
        "content_type",
        one(chat(USER, {**ANSWER, "reasoning_content": 1})),
        11,
        "messages[1].reasoning_content",
    ),
    (
        "parallel_tool_calls_invalid",
        one(chat(USER, ANSWER, parallel_tool_calls="no")),
        11,
        "parallel_tool_calls",
    ),
    (
        "function_call_deprecated",
        one(chat(USER, {**ANSWER, "function_call": {"name": "f"}})),
        11,
        "messages[1].function_call",
    ),
    ("extra_field", one(chat(USER, {**ANSWER, "tool_call_id": "1"})), 11, "messages[1].tool_call_id"),
    ("tools_malformed", one(chat(USER, ANSWER, tools={"f": 1})), 11, "tools"),
    ("tools_malformed", one(chat(USER, ANSWER, tools=[{"name": "f"}])), 11, "tools[0]"),
    ("tools_malformed", one(chat(USER, ANSWER, tools=[*TOOLS, *TOOLS])), 11, "tools[1]"),
    (
        "tools_malformed",
        one(chat(USER, ANSWER, tools=[{"type": "function", "function": {"name": "a b"}}])),
        11,
        "tools[0]",
    ),
    (
        "tools_malformed",
        one(chat(USER, ANSWER, tools=[{"type": "function", "function": {"name": "a", "parameters": "x"}}])),
        11,
        "tools[0]",
    ),
    ("tools_malformed", one(calling(CALL, tools=[{"type": "x"}])), 11, "tools[0]"),
    ("tools_missing", one(calling(CALL, tools=None)), 11, "tools"),
    ("tool_calls_malformed", one(calling({**CALL, "id": ""})), 11, "messages[1].tool_calls[0]"),
    ("tool_calls_malformed", one(calling("f()")), 11, "messages[1].tool_calls[0]"),
    ("tool_calls_malformed", one(calling({**CALL, "function": {}})), 11, "messages[1].tool_calls[0]"),
    (
        "tool_calls_malformed",
        one(calling({**CALL, "function": {"name": None}})),
        11,
        "messages[1].tool_calls[0]",
    ),
    ("tool_calls_malformed", one(chat(USER, {**ANSWER, "tool_calls": {}})), 11, "messages[1].tool_calls"),
    (
        "tool_calls_on_non_assistant",
        one(chat({**USER, "tool_calls": [CALL]}, ANSWER)),
        11,
        "messages[0].tool_calls",
    ),
    (
        "tool_call_arguments_not_json",
        one(calling({**CALL, "function": {"name": "f", "arguments": "[1]"}})),
        11,
        "messages[1].tool_calls[0].function.arguments",
    ),
    (
        "tool_call_id_duplicate",
        one(chat(USER, {"role": "assistant", "tool_calls": [CALL, CALL]}, RESULT, ANSWER, tools=TOOLS)),
        11,
        "messages[1].tool_calls[1].id",
    ),
    (
        "tool_call_unanswered",
        one(chat(USER, {"role": "assistant", "tool_calls": [CALL]}, USER, ANSWER, tools=TOOLS)),
        11,
        "messages[1].tool_calls",
    ),
    (
        "tool_call_id_missing",
        one(calling(CALL, answer={"role": "tool", "content": "ok"})),
        11,
        "messages[2].tool_call_id",
    ),
    ("tool_message_without_call", one(chat(USER, RESULT, ANSWER)), 11, "messages[1].tool_call_id"),
    ("prompt_missing", others(PC, {"completion": "b"}), 11, "prompt"),
    ("prompt_missing", others(IO, {"output": "b"}), 11, "input"),
    ("prompt_missing", others(ALPACA, {"instruction": None, "output": "b"}), 11, "instruction"),
    ("prompt_empty", others(IO, {"input": " ", "output": "b"}), 11, "input"),
    ("completion_missing", others(PC, {"prompt": "a"}), 11, "completion"),
    ("completion_missing", others(ALPACA, {"instruction": "a"}), 11, "output"),
    ("completion_empty", others(PC, {"prompt": "a", "completion": ""}), 11, "completion"),
    ("text_empty", others({"text": "a"}, {"text": ""}), 11, "text"),
    ("field_type", others(PC, {"prompt": ["a"], "completion": "b"}), 11, "prompt"),
    ("field_type", others(ALPACA, {"instruction": "a", "input": 1, "output": "b"}), 11, "input"),
    ("extra_field", others(PC, {**PC, "source": "x"}), 11, "source"),
    ("duplicate_row", one(good(1, 3)[0]), 11, None),
    ("role_unknown", one(chat(USER, {"role": "function", "content": "x"}, ANSWER)), 11, "messages[1].role"),
    ("role_unknown", one(chat({"role": 7, "content": "x"}, ANSWER)), 11, "messages[0].role"),
    ("weight_invalid", one(chat(USER, {**ANSWER, "weight": True})), 11, "messages[1].weight"),
    ("weight_invalid", one(chat(USER, {**ANSWER, "weight": "1"})), 11, "messages[1].weight"),
    ("messages_missing", one({"messages": None}), 11, "messages"),
]


@pytest.mark.parametrize(("code", "data", "line", "field"), LINE_CASES, ids=[case[0] for case in LINE_CASES])
def test_a_line_with_one_mistake_gives_one_finding_there(code, data, line, field):
    report = validate(data, filename="x.jsonl")
    assert [(f.code, f.line, f.field, f.unit) for f in report.findings] == [(code, line, field, "line")]
    assert report.findings[0].severity == FINDINGS[code].severity
    assert report.ok == (FINDINGS[code].severity == "warning")


SHAREGPT = [
    {"conversations": [{"from": "human", "value": f"a{n}"}, {"from": "gpt", "value": "b"}]} for n in range(10)
]
SHAREGPT_CASES = [
    ("messages_missing", {"conversations": None, "id": 1}, "conversations"),
    ("messages_not_a_list", {"conversations": {}}, "conversations"),
    ("messages_empty", {"conversations": []}, "conversations"),
    ("role_unknown", {"conversations": [{"from": "bob", "value": "x"}]}, "conversations[0].from"),
    (
        "content_type",
        {"conversations": [{"from": "human", "value": 1}, {"from": "gpt", "value": "b"}]},
        "conversations[0].value",
    ),
    (
        "last_message_not_assistant",
        {"system": "s", "conversations": [*SHAREGPT[0]["conversations"], {"from": "human", "value": "?"}]},
        "conversations[2].from",
    ),
    ("tools_malformed", {**SHAREGPT[0], "tools": "{"}, "tools"),
]


@pytest.mark.parametrize(("code", "row", "field"), SHAREGPT_CASES, ids=[case[0] for case in SHAREGPT_CASES])
def test_sharegpt_findings_speak_of_its_own_fields(code, row, field):
    report = validate(lines(*SHAREGPT[1:], *SHAREGPT[:1], row))
    assert (code, 11, field) in [(f.code, f.line, f.field) for f in report.errors]
    assert all((f.field or "conversations").startswith(("conversations", "tools")) for f in report.findings)


PAIR = {
    "input": chat(USER),
    "preferred_output": [ANSWER],
    "non_preferred_output": [{**ANSWER, "content": "No."}],
}
PREFERENCE_CASES = [
    ("preference_malformed", {**PAIR, "input": "Say yes."}, "input"),
    ("preference_malformed", {**PAIR, "input": {}}, "input.messages"),
    ("preference_malformed", {**PAIR, "preferred_output": ANSWER}, "preferred_output"),
    ("preference_malformed", {**PAIR, "preferred_output": [ANSWER, ANSWER]}, "preferred_output"),
    ("preference_same", {**PAIR, "non_preferred_output": [ANSWER]}, None),
    ("role_unknown", {**PAIR, "input": chat({"role": "x", "content": "y"})}, "input.messages[0].role"),
    ("no_assistant_message", {**PAIR, "preferred_output": [USER]}, "preferred_output"),
    ("preference_malformed", {"chosen": "a", "rejected": "b"}, "prompt"),
    ("preference_malformed", {"chosen": [USER, ANSWER], "rejected": [ANSWER, ANSWER]}, "rejected"),
    ("label_invalid", {"prompt": "a", "completion": "b", "label": "perhaps"}, "label"),
]


@pytest.mark.parametrize(
    ("code", "row", "field"), PREFERENCE_CASES, ids=[case[0] for case in PREFERENCE_CASES]
)
def test_preference_findings(code, row, field):
    report = validate(lines(row), purpose="any")
    assert (code, 1, field) in [(f.code, f.line, f.field) for f in report.errors]


def test_feedback_of_one_label_teaches_nothing():
    rows = [{"prompt": f"a{n}", "completion": "b", "label": True} for n in range(10)]
    assert "one_label" in [f.code for f in validate(lines(*rows), method="kto").errors]


def parquet(rows):
    out = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), out)
    return out.getvalue()


CSV = b"prompt,completion\n" + b"".join(f"a{n},b\n".encode() for n in range(10))
CSV_CHAT = b"messages,id\n" + b"".join(
    b'"' + json.dumps(row["messages"]).replace('"', '""').encode() + b'",1\n' for row in good()
)
FILE_CASES = [
    ("empty_file", b" \n", "x.jsonl", None),
    ("empty_file", b"[]", "x.json", None),
    ("unknown_container", b"hello world\n", "x.txt", None),
    ("unknown_format", lines({"question": "a", "answer": "b"}), "x.jsonl", None),
    ("ambiguous_format", lines(*[{"prompt": "a", "output": str(n)} for n in range(10)]), "x.jsonl", 1),
    ("byte_order_mark", b"\xef\xbb\xbf" + lines(*good()), "x.jsonl", 1),
    ("invalid_utf8", "\ufeff".encode("utf-16-le") + lines(*good()), "x.jsonl", 1),
    ("too_few_rows", lines(*good(9)), "x.jsonl", None),
    (
        "method_mismatch",
        lines(*[{**PAIR, "input": row} for row in [chat(m["messages"][0]) for m in good()]]),
        "x.jsonl",
        None,
    ),
    ("json_root_invalid", b'{"rows": 1,\n"x": 2}', "x.json", None),
    ("json_root_invalid", b'{"data": 3,\n"x": 1}', "x.json", None),
    ("invalid_json", b'[{"text": "a"},', "x.json", None),
    (
        "duplicate_key",
        b'{"data": [' + b'{"text": "a", "text": "b"}' + b', {"text": "c"}' * 1 + b"]}",
        "x.json",
        1,
    ),
    ("nul_character", b'[{"text": "a\\u0000"}, {"text": "b"}]', "x.json", 1),
    ("not_an_object", b'[{"text": "a"}, 3]', "x.json", 2),
    ("csv_header_missing", b"a,b\n1,2\n", "x.csv", None),
    ("csv_header_missing", b"prompt,completion,prompt\n1,2,3\n", "x.csv", None),
    ("csv_row_width", CSV + b"a,b,c\n", "x.csv", 11),
    ("csv_malformed", CSV + b'a,"b\n', "x.csv", 11),
    ("csv_cell_not_json", CSV_CHAT + b"hello,1\n", "x.csv", 11),
    ("extra_column", b"prompt,completion,id\n" + CSV.split(b"\n", 1)[1].replace(b",b", b",b,7"), "x.csv", 1),
    ("invalid_utf8", CSV + b"a,\xff\n", "x.csv", None),
    ("nul_character", CSV + b"a,b\0\n", "x.csv", 11),
    ("line_too_long", CSV + b"a," + b"b" * (1 << 21) + b"\n", "x.csv", 11),
    ("parquet_unreadable", b"PAR1 and nothing else", None, None),
    ("parquet_unreadable", b"", "x.parquet", None),
    (
        "nonfinite_number",
        parquet([chat(USER, {**ANSWER, "weight": 1.0}), chat(USER, {**ANSWER, "weight": float("nan")})]),
        None,
        2,
    ),
    ("nul_character", parquet([{"text": "a\0"}]), None, 1),
]


@pytest.mark.parametrize(
    ("code", "data", "name", "line"), FILE_CASES, ids=[f"{c[0]}-{c[2]}" for c in FILE_CASES]
)
def test_findings_of_files(code, data, name, line):
    report = validate(
        data, filename=name, purpose="train" if code in ("too_few_rows", "method_mismatch") else "valid"
    )
    found = [(f.code, f.line) for f in report.findings]
    if data == b"":
        assert found == [("empty_file", None)]
        return
    assert (code, line) in found
    assert {c for c, _ in found} <= {code, "extra_column"}
    if line is not None:
        assert report.findings[0].unit == ("line" if name == "x.jsonl" else "row")


def test_a_file_over_the_limit_is_not_read():
    report = validate(lines(*good()), max_bytes=100)
    assert [f.code for f in report.findings] == ["file_too_large"]


def test_findings_past_the_limit_are_counted():
    notes = Findings()
    for number in range(MAX_FINDINGS + 5):
        notes.add("blank_line", "Blank.", line=number + 1)
    found = notes.finish()
    assert len(found) == MAX_FINDINGS + 1
    assert found[0].code == "too_many_findings" and found[0].message.startswith("5 more")


COUNTED_CASES = [
    ("over_length", chat(USER, {**ANSWER, "content": LONG}), 60),
    ("answer_cut_off", chat({**USER, "content": LONG}, ANSWER), 60),
    ("control_token", chat({**USER, "content": "a<|im_end|>b"}, ANSWER), None),
]


@pytest.mark.parametrize(("code", "row", "limit"), COUNTED_CASES, ids=[case[0] for case in COUNTED_CASES])
def test_findings_of_the_tokenizer_and_template(renderer, code, row, limit):
    report = validate(one(row), renderer=renderer, max_length=limit)
    assert [(f.code, f.line) for f in report.findings] == [(code, 11)]


def test_findings_of_odd_templates(make_folder):
    silent = Renderer.load(
        make_folder("{% for m in messages %}{% generation %}{% endgeneration %}x{% endfor %}")
    )
    assert {f.code for f in validate(one(good(1, 20)[0]), renderer=silent).findings} == {"no_labelled_tokens"}
    none = Renderer.load(make_folder(None))
    assert [f.code for f in validate(lines(*good()), renderer=none).findings] == ["chat_template_missing"]
    assert validate(lines(*[{"text": f"t{n}"} for n in range(10)]), renderer=none).ok
    refuses = Renderer.load(make_folder("{{ raise_exception('no') }}"))
    assert {f.code for f in validate(lines(*good()), renderer=refuses).findings} == {"template_error"}
    rewrites = Renderer.load(make_folder("{{ messages|length }}{{ messages[-1].content }}"))
    assert {f.code for f in validate(lines(*good()), renderer=rewrites).findings} == {"template_not_prefix"}


def test_leaks_exact_and_loose_and_whole():
    train = validate(lines(*good()))
    loose = chat({"role": "user", "content": "NUMBER  4?"}, ANSWER)
    some = check_pair(train, validate(lines(*good(1, 50), *good(1, 2), loose), purpose="valid"))
    assert [(leak.valid_line, leak.train_line, leak.exact) for leak in some.leaks] == [
        (2, 3, True),
        (3, 5, False),
    ]
    assert [(f.code, f.line) for f in some.findings] == [
        ("leak_into_validation", 2),
        ("leak_into_validation", 3),
    ]
    assert some.ok
    every = check_pair(train, validate(lines(*good(3)), purpose="valid"))
    assert "validation_is_training" in [f.code for f in every.errors]
    assert check_pair(train, validate(lines(*good(3, 50)), purpose="valid")).findings == ()


def test_every_code_of_the_table_is_reached_by_a_test():
    from pathlib import Path

    here = Path(__file__)
    expected = (here.parents[2] / "data" / "thirty_defects.expected.json").read_text()
    text = expected + here.read_text()
    assert [code for code in FINDINGS if f'"{code}"' not in text] == []
