"""One file, thirty mistakes, thirty findings; and the docs' table is the program's."""

import json
import re
import runpy
from pathlib import Path

from graftwork.data import FINDINGS, validate

ROOT = Path(__file__).parents[3]
FOLDER = ROOT / "tests" / "data"
FILE = FOLDER / "thirty_defects.jsonl"
EXPECTED = json.loads((FOLDER / "thirty_defects.expected.json").read_text())


def test_each_of_thirty_defects_is_found_on_its_line_and_nothing_else(renderer):
    assert len({item["code"] for item in EXPECTED}) == 30
    for render in (None, renderer):
        report = validate(FILE.read_bytes(), filename=FILE.name, renderer=render)
        assert [{"line": f.line, "code": f.code} for f in report.findings] == EXPECTED
        assert not report.ok
        assert all(f.severity == "error" and f.fix and f.message for f in report.findings)
        assert len(report.rows_canonical()) == report.rows - 30


def test_the_files_are_what_their_script_writes():
    made = runpy.run_path(str(ROOT / "scripts" / "data" / "thirty_defects.py"))
    assert [code for code, _ in made["defects"]()] == [item["code"] for item in EXPECTED]
    assert all(line in FILE.read_bytes().split(b"\n") for _, line in made["defects"]())


def test_the_docs_table_is_the_programs():
    text = (ROOT / "docs" / "datasets.md").read_text()
    rows = re.findall(r"^\| `(\w+)` \| (error|warning) \| (.+?) \| (.+) \|$", text, flags=re.MULTILINE)
    table = {code: (meaning, fix.replace("\\|", "|"), severity) for code, severity, meaning, fix in rows}
    assert table == {code: tuple(known) for code, known in FINDINGS.items()}
