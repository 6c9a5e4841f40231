"""Every format in every container becomes the canonical rows it should; ambiguity is refused."""

import csv
import io
import json

import pyarrow
import pyarrow.parquet
import pytest

from graftwork.data import Report, canonical, detect, measure, read_canonical, validate
from graftwork.data.containers import MAX_LINE
from graftwork.data.encoding import windows
from graftwork.data.findings import Findings
from graftwork.data.parquet import read_parquet

USER, ANSWER = {"role": "user", "content": "Say yes."}, {"role": "assistant", "content": "Yes."}
SYSTEM = {"role": "system", "content": "Be kind."}
TOOL = {"type": "function", "function": {"name": "f", "description": "d", "parameters": {"z": 1, "a": 2}}}
CALL = {"id": "call_1", "type": "function", "function": {"name": "f", "arguments": '{"x":1}'}}
RESULT = {"role": "tool", "content": "ok", "tool_call_id": "call_1"}

CASES = [
    ("chat", {"messages": [USER, ANSWER]}, {"messages": [USER, ANSWER]}),
    (
        "chat",
        {
            "messages": [{**SYSTEM, "role": "developer"}, USER, {**ANSWER, "weight": 1, "refusal": None}],
            "tools": [],
        },
        {"messages": [SYSTEM, USER, ANSWER]},
    ),
    (
        "chat",
        {
            "parallel_tool_calls": False,
            "tools": [
                {
                    "function": {"parameters": {"z": 1, "a": 2}, "name": "f", "description": "d"},
                    "type": "function",
                }
            ],
            "messages": [
                {
                    "content": [{"type": "text", "text": "Say "}, {"type": "text", "text": "yes."}],
                    "role": "user",
                },
                {"role": "assistant", "content": None, "tool_calls": [CALL], "weight": 0},
                RESULT,
                {**ANSWER, "name": "bob", "reasoning_content": "hm"},
            ],
        },
        {
            "messages": [
                USER,
                {"role": "assistant", "weight": 0, "tool_calls": [CALL]},
                RESULT,
                {**ANSWER, "name": "bob", "reasoning_content": "hm"},
            ],
            "tools": [TOOL],
            "parallel_tool_calls": False,
        },
    ),
    (
        "chat",
        {
            "tools": [TOOL],
            "messages": [
                USER,
                {
                    "role": "assistant",
                    "tool_calls": [{**CALL, "function": {"name": "f", "arguments": {"x": 1}}}],
                },
            ],
        },
        {"messages": [USER, {"role": "assistant", "tool_calls": [CALL]}], "tools": [TOOL]},
    ),
    ("prompt_completion", {"prompt": "", "completion": " b "}, {"prompt": "", "completion": " b "}),
    ("input_output", {"input": "Say yes.", "output": "Yes."}, {"messages": [USER, ANSWER]}),
    (
        "input_output",
        {"input": "Say yes.", "output": "Yes.", "system": "Be kind."},
        {"messages": [SYSTEM, USER, ANSWER]},
    ),
    ("alpaca", {"instruction": "Say yes.", "input": "", "output": "Yes."}, {"messages": [USER, ANSWER]}),
    (
        "alpaca",
        {"instruction": "Translate.", "input": "oui", "output": "Yes.", "system": "Be kind."},
        {"messages": [SYSTEM, {"role": "user", "content": "Translate.\n\noui"}, ANSWER]},
    ),
    (
        "sharegpt",
        {
            "id": "7",
            "conversations": [{"from": "human", "value": "Say yes."}, {"from": "gpt", "value": "Yes."}],
        },
        {"messages": [USER, ANSWER]},
    ),
    (
        "sharegpt",
        {"conversations": [USER, ANSWER], "system": "Be kind."},
        {"messages": [SYSTEM, USER, ANSWER]},
    ),
    (
        "sharegpt",
        {
            "tools": json.dumps([TOOL["function"]]),
            "conversations": [
                {"from": "human", "value": "Say yes."},
                {"from": "function_call", "value": '{"name": "f", "arguments": {"x": 1}}'},
                {"from": "observation", "value": "ok"},
                {"from": "gpt", "value": "Yes."},
            ],
        },
        {"messages": [USER, {"role": "assistant", "tool_calls": [CALL]}, RESULT, ANSWER], "tools": [TOOL]},
    ),
    ("text", {"text": "Once upon a time."}, {"text": "Once upon a time."}),
]
PAIR = {
    "input": {"messages": [USER]},
    "preferred_output": [ANSWER],
    "non_preferred_output": [{**ANSWER, "content": "No."}],
}
PREFERENCES = [
    ("preference_openai", PAIR),
    ("preference", {"prompt": "Say yes.", "chosen": "Yes.", "rejected": "No."}),
    ("preference", {"prompt": [USER], "chosen": [ANSWER], "rejected": [{**ANSWER, "content": "No."}]}),
    ("preference", {"chosen": [USER, ANSWER], "rejected": [USER, {**ANSWER, "content": "No."}]}),
]


def lines(rows):
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


@pytest.mark.parametrize(
    ("shape", "row", "expected"), CASES, ids=[f"{n}-{c[0]}" for n, c in enumerate(CASES)]
)
def test_rows_become_canonical(shape, row, expected):
    report = validate(lines([row]), purpose="valid")
    assert report.findings == ()
    assert report.format.shape == shape
    assert report.rows_canonical() == [expected]
    assert read_canonical(canonical([expected])) == [expected]
    assert list(report.rows_canonical()[0]) == list(expected), "keys in a fixed order"


@pytest.mark.parametrize(("shape", "row"), PREFERENCES)
def test_preferences_become_openais(shape, row):
    report = validate(lines([row]), purpose="any")
    assert (report.findings, report.format.shape) == ((), shape)
    assert report.rows_canonical() == [PAIR]
    assert [f.code for f in validate(lines([row]), purpose="valid").findings] == ["method_mismatch"]
    assert validate(lines([row]), purpose="valid", method="dpo").ok


def test_preferences_are_counted(renderer):
    report = validate(lines([PAIR]), purpose="any", renderer=renderer)
    assert report.size is not None and report.size.rows == 2 and report.size.labelled > 4


def as_csv(rows, delimiter=","):
    out = io.StringIO()
    fields = list(dict.fromkeys(key for row in rows for key in row))
    writer = csv.DictWriter(out, fields, delimiter=delimiter)
    writer.writeheader()
    for row in rows:
        writer.writerow({k: v if isinstance(v, str) else json.dumps(v) for k, v in row.items()})
    return out.getvalue().encode()


def as_parquet(rows):
    out = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), out)
    return out.getvalue()


CONTAINERS = [
    ("jsonl", lambda rows: lines(rows), "a.jsonl"),
    ("jsonl", lambda rows: lines(rows).replace(b"\n", b"\r\n"), None),
    ("jsonl", lambda rows: lines(rows).rstrip(b"\n"), "a.json"),
    ("json", lambda rows: json.dumps(rows).encode(), "a.json"),
    ("json", lambda rows: json.dumps(rows, indent=2).encode(), "a.jsonl"),
    ("json", lambda rows: json.dumps({"data": rows}).encode(), None),
    ("json", lambda rows: json.dumps({"data": rows}, indent=1).encode(), "a.jsonl"),
    ("csv", as_csv, "a.csv"),
    ("csv", lambda rows: as_csv(rows, ";"), "a.csv"),
    ("csv", lambda rows: as_csv(rows, "\t"), "a.tsv"),
    ("csv", as_csv, None),
    ("parquet", as_parquet, "a.parquet"),
    ("parquet", as_parquet, None),
]
TABLES = [
    [{"messages": [USER, ANSWER]}, {"messages": [SYSTEM, USER, {**ANSWER, "weight": 0}, USER, ANSWER]}],
    [{"prompt": 'a, "b"\nc', "completion": "d"}, {"prompt": "é;\t", "completion": "[{"}],
    [{"instruction": "Say yes.", "input": "x", "output": "Yes."}],
    [PAIR],
]


@pytest.mark.parametrize(("container", "write", "name"), CONTAINERS)
@pytest.mark.parametrize("rows", TABLES)
def test_every_container_holds_the_same_rows(container, write, name, rows):
    report = validate(write(rows), filename=name, purpose="any")
    assert report.findings == ()
    assert report.format.container == container
    assert report.rows_canonical() == validate(lines(rows), purpose="any").rows_canonical()


def test_a_printed_single_row_is_one_row():
    report = validate(json.dumps({"text": "a"}, indent=2).encode(), purpose="valid")
    assert report.rows_canonical() == [{"text": "a"}]


@pytest.mark.parametrize(
    ("row", "between"),
    [
        ({"messages": [USER, ANSWER], "prompt": "x"}, "chat (messages) and prompt/completion"),
        ({"prompt": "x", "output": "y"}, "prompt/completion and input/output"),
        ({"text": "x", "messages": [USER, ANSWER]}, "chat (messages) and plain text (text)"),
        (
            {"conversations": [], "messages": [], "text": ""},
            "chat (messages), ShareGPT (conversations) and plain text (text)",
        ),
    ],
)
def test_an_ambiguous_file_is_refused_saying_between_what(row, between):
    form, findings = detect(lines([row] * 10))
    assert form.shape is None
    assert [f.code for f in findings] == ["ambiguous_format"]
    assert between in findings[0].message
    assert validate(lines([row] * 10)).findings == findings


def test_mixed_files_are_refused_by_row():
    rows = [{"messages": [USER, ANSWER]}, {"prompt": "a", "completion": "b"}, {"text": "x"}]
    report = validate(lines(rows), purpose="valid")
    assert [(f.code, f.line) for f in report.findings] == [("mixed_formats", 2), ("mixed_formats", 3)]
    assert "prompt/completion" in report.findings[0].message


def test_detect_names_container_and_format():
    form, findings = detect(as_parquet([{"text": "a"}]), "x.bin")
    assert (form.container, form.shape, findings) == ("parquet", "text", ())
    assert str(form) == "plain text (text) in parquet"
    form, findings = detect(b"\x00\x01")
    assert (form.container, form.shape, [f.code for f in findings]) == (None, None, ["unknown_container"])


def test_the_report_counts_and_previews(renderer):
    rows = [{"messages": [{"role": "user", "content": f"{n} " * (n + 1)}, ANSWER]} for n in range(12)]
    report = validate(lines(rows + rows[:2]), renderer=renderer, max_length=40)
    encoded = [renderer.encode(row) for row in rows + rows[:2]]
    assert report.rows == 14 and report.duplicates == 2 and report.ok
    assert report.size is not None
    assert report.size.total == sum(e.length for e in encoded)
    assert report.size.tokens == sum(min(e.length, 40) for e in encoded)
    assert report.size.labelled == sum(sum(e.labels[1:40]) for e in encoded)
    assert report.size.longest == max(e.length for e in encoded)
    assert report.size.over_length == sum(e.length > 40 for e in encoded)
    assert sum(bucket.rows for bucket in report.lengths) == 14
    for bucket in report.lengths:
        assert bucket.rows == sum(bucket.upto // 2 < e.length <= bucket.upto for e in encoded)
    assert [row.line for row in report.preview] == [1, 2, 3]
    assert [text for text, loss in report.preview[0].pieces if loss] == ["Yes.<|im_end|>"]
    assert report.errors == () and report.warnings == report.findings


def test_a_report_survives_json(renderer):
    report = validate(lines([{"messages": [USER, ANSWER]}] * 3), renderer=renderer, max_length=5)
    again = Report.from_json(json.loads(json.dumps(report.to_json())))
    assert again == report
    assert again.to_json() == report.to_json()
    with pytest.raises(ValueError, match="no rows"):
        again.rows_canonical()


def test_a_small_parquet_file_that_holds_a_huge_table_is_not_unpacked():
    data = as_parquet([{"text": "x" * 50_000}] * 400)  # one value, stored once
    assert len(data) < 60_000
    notes = Findings("row")
    rows = list(read_parquet(data, notes, MAX_LINE, max_unpacked=1 << 20))
    assert [(finding.code, finding.severity) for finding in notes.finish()] == [("file_too_large", "error")]
    assert len(rows) == (1 << 20) // 50_004


def test_a_parquet_row_may_be_no_longer_than_a_line():
    report = validate(
        as_parquet([{"text": "a"}, {"text": "x" * (MAX_LINE + 1)}, {"text": "b"}]), purpose="any"
    )
    assert [(finding.code, finding.line) for finding in report.findings] == [("line_too_long", 2)]
    assert report.rows_canonical() == [{"text": "a"}, {"text": "b"}]


WANTED = {"input": {"messages": [USER]}, "output": [ANSWER], "label": True}
FEEDBACK = [
    {"prompt": USER["content"], "completion": ANSWER["content"], "label": True},
    {"prompt": [USER], "completion": [ANSWER], "label": True},
]


@pytest.mark.parametrize("row", FEEDBACK)
def test_feedback_is_told_by_its_three_fields(row):
    report = validate(lines([row]), purpose="valid", method="kto")
    assert (report.findings, report.format.shape) == ((), "feedback")
    assert report.rows_canonical() == [WANTED]


def test_feedback_needs_both_labels_to_train_on():
    rows = [{**FEEDBACK[0], "completion": f"Yes {n}."} for n in range(10)]
    assert [f.code for f in validate(lines(rows), method="kto").findings] == ["one_label"]
    rows[3]["label"] = False
    assert validate(lines(rows), method="kto").ok
    rows[4]["label"] = "perhaps"
    assert [f.code for f in validate(lines(rows), method="kto").findings] == ["label_invalid"]


@pytest.mark.parametrize(
    ("method", "row", "ok"),
    [
        ("kto", PAIR, True),
        ("orpo", PAIR, True),
        ("dpo", FEEDBACK[0], False),
        ("dpo", {"messages": [USER, ANSWER]}, False),
        ("cpt", {"text": "Once."}, True),
        ("cpt", {"messages": [USER, ANSWER]}, False),
        ("sft", FEEDBACK[0], False),
    ],
)
def test_each_method_takes_its_own_rows(method, row, ok):
    found = [f.code for f in validate(lines([row]), purpose="valid", method=method).findings]
    assert found == ([] if ok else ["method_mismatch"])


def test_only_the_answer_of_a_preference_carries_loss(renderer):
    asked = {"messages": [USER, ANSWER, USER]}
    row = {
        "input": asked,
        "preferred_output": [ANSWER],
        "non_preferred_output": [{**ANSWER, "content": "No."}],
    }
    alone = {**row, "input": {"messages": [USER]}}
    sizes = [measure([item], renderer) for item in (row, alone)]
    assert sizes[0].rows == 1
    assert sizes[0].labelled == sizes[1].labelled
    assert sizes[0].tokens > sizes[1].tokens


def test_long_texts_are_cut_into_windows_that_lose_no_token(renderer):
    encoded = renderer.encode({"text": " ".join(["word"] * 40)})
    pieces = windows(encoded, 16)
    assert max(len(piece.tokens) for piece in pieces) == 16
    assert sum(piece.labelled for piece in pieces) == encoded.labelled
    told = [piece.tokens if not at else piece.tokens[1:] for at, piece in enumerate(pieces)]
    assert [token for piece in told for token in piece] == encoded.tokens
    size = measure([{"text": " ".join(["word"] * 40)}], renderer, 16, method="cpt")
    assert (size.rows, size.labelled) == (len(pieces), encoded.labelled)
    assert windows(encoded, len(encoded.tokens)) == [encoded]
