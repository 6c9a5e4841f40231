"""Files to raw rows: JSON lines, JSON, CSV, Parquet; every row with its number, every defect noted.

The container is told by content first: names lie. Nothing here raises on bad data.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any, Literal

import orjson

from graftwork.data.findings import Findings
from graftwork.data.shapes import candidates
from graftwork.data.strict_json import Defect, parse, utf8_defect

Container = Literal["jsonl", "json", "csv", "parquet"]

MAX_BYTES = 512 << 20
"""Largest file, as at OpenAI."""
MAX_LINE = 1 << 20
"""Longest row in bytes."""
_BOM = b"\xef\xbb\xbf"
_UTF16 = (b"\xff\xfe", b"\xfe\xff")
_SUFFIXES: dict[str, Container] = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "json",
    ".csv": "csv",
    ".tsv": "csv",
    ".parquet": "parquet",
}
_DELIMITERS = (",", ";", "\t")


@dataclass(frozen=True, slots=True)
class Record:
    """A raw row: its number in the file, and its value; None when it could not be read."""

    line: int
    value: dict[str, Any] | None


def container_of(data: bytes, filename: str | None) -> Container | None:
    """What kind of file ``data`` is, by its first bytes, then by its name; None when neither tells."""
    named = _SUFFIXES.get(PurePath(filename).suffix.lower()) if filename else None
    if data[:4] == b"PAR1" or named == "parquet":
        return "parquet"
    if data.startswith(_UTF16):
        return named or "jsonl"
    body = data.removeprefix(_BOM).lstrip(b" \t\r\n")
    first = body.split(b"\n", 1)[0]
    if named != "csv" and body[:1] in (b"{", b"["):
        return _json_kind(body, first, named)
    if named is None and body and _header(first) is not None:
        return "csv"
    return named


def _json_kind(body: bytes, first: bytes, named: Container | None) -> Container:
    """JSON lines, or one document: a document's first line is no row by itself."""
    if body[:1] == b"{" and _is_row(first):
        return "jsonl"
    try:
        orjson.loads(body)
    except orjson.JSONDecodeError:
        if named is not None:
            return named
        lines = body[:1] == b"{" and body[len(first) : len(first) + 2] == b"\n{"
        return "jsonl" if lines else "json"
    return "json"


def _is_row(line: bytes) -> bool:
    try:
        value = orjson.loads(line)
    except orjson.JSONDecodeError:
        # a broken first row still ends like a row; the first line of a printed document does not
        return len(line) > 2 and line.rstrip().endswith(b"}")
    return isinstance(value, dict) and not isinstance(value.get("data"), list)


def read(data: bytes, container: Container, notes: Findings, max_line: int = MAX_LINE) -> list[Record]:
    """The raw rows of a file, in order; what is wrong with them goes to ``notes``."""
    if container == "parquet":
        from graftwork.data.parquet import read_parquet

        return [Record(number, row) for number, row in enumerate(read_parquet(data, notes, max_line), 1)]
    if data.startswith(_BOM):
        notes.add("byte_order_mark", "The file begins with a byte order mark.", line=1)
        data = data.removeprefix(_BOM)
    if container == "jsonl":
        return list(_lines(data, notes, max_line))
    if container == "json":
        return list(_document(data, notes, max_line))
    return list(_csv(data, notes, max_line))


def _lines(data: bytes, notes: Findings, max_line: int) -> Iterator[Record]:
    if data.startswith(_UTF16):
        notes.add("invalid_utf8", "The file is UTF-16, not UTF-8.", line=1)
        return
    start, number = 0, 0
    while start < len(data):
        number += 1
        end = data.find(b"\n", start)
        last = end < 0
        raw = data[start : len(data) if last else end]
        start = len(data) if last else end + 1
        if not raw.strip():
            notes.add("blank_line", "The line is blank.", line=number)
        elif len(raw) > max_line:
            notes.add("line_too_long", f"The line has {len(raw)} bytes; {max_line} are allowed.", line=number)
            yield Record(number, None)
        else:
            yield Record(number, _object(raw, notes, number, last))


def _object(raw: bytes, notes: Findings, number: int, last: bool) -> dict[str, Any] | None:
    value, defects = parse(raw)
    for defect in defects:
        code, message = defect.code, defect.message
        if code == "invalid_json" and last:
            code, message = "truncated_last_line", f"The last line is cut off after {len(raw)} bytes."
        notes.add(code, message, line=number, field=defect.field)
    if isinstance(value, dict):
        return value
    if value is not None or not defects:
        notes.add("not_an_object", f"The line is {_name(value)}, not an object.", line=number)
    return None


def _document(data: bytes, notes: Findings, max_line: int) -> Iterator[Record]:
    # a document may nest two levels more than a row
    value, defects = parse(data, max_depth=34)
    for defect in defects:
        _note_document(defect, data, notes)
    rows = value.get("data") if isinstance(value, dict) else value
    if value is None and defects:
        return
    if isinstance(value, dict) and "data" not in value and candidates(value):
        rows = [value]
    if not isinstance(rows, list):
        notes.add("json_root_invalid", f"The file holds {_name(value)}.")
        return
    for number, row in enumerate(rows, 1):
        if not isinstance(row, dict):
            notes.add("not_an_object", f"The row is {_name(row)}, not an object.", line=number)
            yield Record(number, None)
        elif len(data) > max_line and (size := len(orjson.dumps(row))) > max_line:
            notes.add("line_too_long", f"The row has {size} bytes; {max_line} are allowed.", line=number)
            yield Record(number, None)
        else:
            yield Record(number, row)


def _note_document(defect: Defect, data: bytes, notes: Findings) -> None:
    """A defect within a document: in its row where the path tells, else of the file."""
    path = (defect.field or "").removeprefix("data")
    if path.startswith("[") and "]" in path:
        index, _, rest = path[1:].partition("]")
        notes.add(defect.code, defect.message, line=int(index) + 1, field=rest.removeprefix(".") or None)
    else:
        notes.add(defect.code, defect.message, field=defect.field)


def _csv(data: bytes, notes: Findings, max_line: int) -> Iterator[Record]:
    broken = utf8_defect(data)
    if broken is not None:
        # CSV counts rows, but only the line is known before it is read
        line = data.count(b"\n", 0, _first_bad(data)) + 1
        notes.add(broken.code, f"{broken.message} It is in line {line}.")
        return
    text = data.decode()
    delimiter = _header(text.split("\n", 1)[0].encode())
    if delimiter is None:
        notes.add("csv_header_missing", "The first row names no column of a known format.")
        return
    csv.field_size_limit(max_line)  # process-wide, and the same for everyone: the longest row
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    header = [cell.strip() for cell in next(reader)]
    doubled = sorted({name for name in header if header.count(name) > 1})
    if doubled:
        notes.add("csv_header_missing", f"The column {doubled[0]!r} stands twice in the header.")
        return
    number = 0
    try:
        for cells in reader:
            if not cells:
                continue
            number += 1
            yield Record(number, _csv_row(cells, header, notes, number))
    except csv.Error as error:
        code = "line_too_long" if "limit" in str(error) else "csv_malformed"
        notes.add(code, f"Reading stopped: {error}.", line=number + 1)


def _csv_row(cells: list[str], header: list[str], notes: Findings, number: int) -> dict[str, Any] | None:
    if len(cells) != len(header):
        message = f"The row has {len(cells)} cells, the header {len(header)}."
        notes.add("csv_row_width", message, line=number)
        return None
    row: dict[str, Any] = {}
    for name, cell in zip(header, cells, strict=True):
        if "\0" in cell:
            notes.add("nul_character", "The cell holds a NUL character.", line=number, field=name)
        value, defects = _cell(name, cell)
        for defect in defects:
            code = "csv_cell_not_json" if defect.code == "invalid_json" else defect.code
            notes.add(code, f"In the cell's JSON: {defect.message}", line=number, field=name)
        if value is not None:
            row[name] = value
    return None if number in notes.bad else row


_JSON_COLUMNS = frozenset(
    {"messages", "conversations", "tools", "parallel_tool_calls", "preferred_output", "non_preferred_output"}
)
_MAYBE_JSON = frozenset({"input", "chosen", "rejected", "prompt"})


def _cell(name: str, cell: str) -> tuple[Any, list[Defect]]:
    """A cell's value: JSON in the columns that hold lists and objects, text elsewhere; empty JSON is no
    value."""
    if name in _JSON_COLUMNS:
        return parse(cell.encode()) if cell.strip() else (None, [])
    if name in _MAYBE_JSON and cell.startswith(("[{", '{"')):
        value, defects = parse(cell.encode())
        return (cell, []) if defects else (value, [])
    return cell, []


def _header(line: bytes) -> str | None:
    """The delimiter with which a first line names columns of a known format; None if there is none."""
    text = line.decode(errors="replace").strip("\r\n")
    for delimiter in _DELIMITERS:
        try:
            cells = next(csv.reader([text], delimiter=delimiter), [])
        except csv.Error:
            continue
        if candidates(cell.strip() for cell in cells):
            return delimiter
    return None


def _first_bad(data: bytes) -> int:
    try:
        data.decode()
    except UnicodeDecodeError as error:
        return error.start
    return len(data)


def _name(value: Any) -> str:
    """What kind of JSON value it is, for people."""
    if value is None:
        return "null"
    kinds = {bool: "true or false", str: "a string", int: "a number", float: "a number", list: "an array"}
    return kinds.get(type(value), "an object without rows")
