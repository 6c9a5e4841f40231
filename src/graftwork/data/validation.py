"""The one validator: CLI, API, control plane and trainer all ask it, and it never raises on bad data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal

from graftwork.core.errors import InvalidRequest
from graftwork.core.specs import Method
from graftwork.data.containers import MAX_BYTES, Record, container_of, read
from graftwork.data.convert import convert
from graftwork.data.findings import FINDINGS, Finding, Findings
from graftwork.data.lessons import answers
from graftwork.data.measure import Counter, count_rows
from graftwork.data.rendering import Renderer
from graftwork.data.report import Format, Leak, PreviewRow, Report, UsableRow, histogram
from graftwork.data.rows import Row, fingerprint, loose_fingerprint
from graftwork.data.shapes import METHOD_NAMES, NAMES, PLAIN, TAKES, Shape, candidates, dominant, listed

MIN_ROWS = 10
"""Fewest rows of a training file, as at OpenAI."""

Purpose = Literal["train", "valid", "any"]


def detect(data: bytes, filename: str | None = None) -> tuple[Format, tuple[Finding, ...]]:
    """How a file is written; when that is unknown or ambiguous, a finding says between what."""
    notes = Findings()
    container = container_of(data, filename)
    if container is None:
        notes.add("unknown_container", "The content is not recognized.")
        return Format(None, None), notes.finish()
    records = read(data, container, Findings())
    shape = _shape(records, notes)
    return Format(container, shape), notes.finish()


def validate(
    data: bytes,
    *,
    filename: str | None = None,
    renderer: Renderer | None = None,
    max_length: int | None = None,
    purpose: Purpose = "train",
    method: Method = "sft",
    max_bytes: int = MAX_BYTES,
) -> Report:
    """Check a data file: every problem at once.

    Args:
        data: the file's bytes, as uploaded.
        filename: a hint at the container, believed less than the content.
        renderer: the base model's; without it nothing is counted in tokens.
        max_length: tokens a row is cut to in training.
        purpose: ``train`` needs at least 10 rows, ``valid`` and ``any`` one; ``any`` takes rows for every
            method.
        method: what the rows are for; rows that it cannot learn from are refused.
        max_bytes: largest file read at all.
    """
    notes = Findings()
    if len(data) > max_bytes:
        notes.add("file_too_large", f"The file has {len(data)} bytes; {max_bytes} are allowed.")
        return Report(format=Format(None, None), rows=0, findings=notes.finish(), usable=())
    if not data.strip():
        notes.add("empty_file", "The file is empty.")
        return Report(format=Format(None, None), rows=0, findings=notes.finish(), usable=())
    container = container_of(data, filename)
    if container is None:
        notes.add("unknown_container", "The content is not recognized.")
        return Report(format=Format(None, None), rows=0, findings=notes.finish(), usable=())
    notes.unit = "line" if container == "jsonl" else "row"
    records = read(data, container, notes)
    shape = _shape(records, notes)
    _whole_file(records, shape, purpose, method, notes)
    usable = _usable(records, shape, container in ("csv", "parquet"), notes) if shape else ()
    if shape == "feedback" and purpose == "train" and len({item.row["label"] for item in usable}) == 1:
        notes.add("one_label", f"All {len(usable)} rows have the same label.")
    duplicates = _duplicates(usable, notes)
    report = Report(format=Format(container, shape), rows=len(records), findings=(), unit=notes.unit)
    limit = None if method == "cpt" else max_length  # long texts are trained on in windows, nothing is cut
    counted = _count(report, usable, renderer, limit, notes)
    return replace(counted, findings=notes.finish(), duplicates=duplicates, usable=usable)


def check_pair(train: Report, valid: Report) -> Report:
    """The report of the validation file with its leaks: rows that stand in the training file too.

    Rows are equal by their canonical content, or but for case and white space.

    Raises:
        ValueError: a report was read from JSON, which holds no rows.
    """
    exact: dict[str, int] = {}
    loose: dict[str, int] = {}
    for item in train.usable or _no_rows(train):
        exact.setdefault(fingerprint(item.row), item.line)
        loose.setdefault(loose_fingerprint(item.row), item.line)
    leaks: list[Leak] = []
    checked = valid.usable or _no_rows(valid)
    for item in checked:
        line = exact.get(fingerprint(item.row))
        near = line if line is not None else loose.get(loose_fingerprint(item.row))
        if near is not None:
            leaks.append(Leak(item.line, near, exact=line is not None))
    notes = Findings(valid.unit)
    for leak in leaks:
        how = "stands" if leak.exact else "stands, but for case and white space,"
        message = f"The row {how} in {train.unit} {leak.train_line} of the training file."
        notes.add("leak_into_validation", message, line=leak.valid_line)
    if leaks and len(leaks) == len(checked):
        notes.add("validation_is_training", f"All {len(checked)} validation rows are trained on.")
    findings = sorted((*valid.findings, *notes.finish()), key=lambda finding: finding.line or 0)
    return replace(valid, leaks=tuple(leaks), findings=tuple(findings))


def _no_rows(report: Report) -> tuple[UsableRow, ...]:
    if report.usable is None:
        raise ValueError("a report read from JSON holds no rows; validate the file again")
    return ()


def _shape(records: Sequence[Record], notes: Findings) -> Shape | None:
    values = [record.value for record in records if record.value is not None]
    shape, between = dominant(values)
    if shape is None and between:
        first = next(record.line for record in records if record.value and candidates(record.value))
        message = f"The rows fit {listed(between)}; it is not guessed which is meant."
        notes.add("ambiguous_format", message, line=first)
    elif shape is None and values:
        fields = sorted({key for value in values[:100] for key in value})[:8]
        shown = ", ".join(repr(key[:40]) for key in fields) or "none"
        notes.add("unknown_format", f"The rows have the fields {shown}.")
    return shape


def _whole_file(
    records: Sequence[Record], shape: Shape | None, purpose: Purpose, method: Method, notes: Findings
) -> None:
    if not records and not any(FINDINGS[item.code].severity == "error" for item in notes.items):
        notes.add("empty_file", "The file holds no rows.")
    elif records and purpose == "train" and len(records) < MIN_ROWS:
        notes.add("too_few_rows", f"The file has {len(records)} rows; training needs at least {MIN_ROWS}.")
    if shape is not None and purpose != "any" and shape not in TAKES[method]:
        notes.add("method_mismatch", f"The rows are {NAMES[shape]}; the method is {METHOD_NAMES[method]}.")


def _usable(records: Sequence[Record], shape: Shape, table: bool, notes: Findings) -> tuple[UsableRow, ...]:
    """Canonical rows of the file's format; every other row is noted."""
    found: list[UsableRow] = []
    for record in records:
        if record.value is None:
            continue
        row = _one(record.line, record.value, shape, table, notes)
        if row is not None and record.line not in notes.bad:
            found.append(UsableRow(record.line, row))
    return tuple(found)


def _one(line: int, value: dict[str, Any], shape: Shape, table: bool, notes: Findings) -> Row | None:
    fits = candidates(value)
    if len(fits) > 1 or fits != (shape,):  # a null field may only fill a table's rectangle
        fits = candidates(key for key, item in value.items() if item is not None) or fits
    if len(fits) > 1:
        notes.add("ambiguous_format", f"The row fits {listed(fits)} at once.", line=line)
        return None
    if fits and fits[0] != shape:
        message = f"The row is {NAMES[fits[0]]}, most of the file is {NAMES[shape]}."
        notes.add("mixed_formats", message, line=line)
        return None
    return convert(shape, value, notes.at(line), table)


def _duplicates(usable: Sequence[UsableRow], notes: Findings) -> int:
    seen: dict[str, int] = {}
    count = 0
    for item in usable:
        first = seen.setdefault(fingerprint(item.row), item.line)
        if first != item.line:
            count += 1
            notes.add("duplicate_row", f"The row is the same as {notes.unit} {first}.", line=item.line)
    return count


def _count(
    report: Report,
    usable: Sequence[UsableRow],
    renderer: Renderer | None,
    max_length: int | None,
    notes: Findings,
) -> Report:
    """The report with its sizes, when there is a renderer."""
    if renderer is None or not usable:
        return report
    rows = usable
    if report.format.shape not in PLAIN:
        rows = [UsableRow(item.line, answer) for item in usable for answer in answers(item.row)]
    counter = Counter(max_length)
    preview: tuple[PreviewRow, ...] = ()
    try:
        preview = count_rows(rows, renderer, counter, notes)
    except InvalidRequest as error:
        notes.add("chat_template_missing", error.message)
    return replace(
        report,
        size=counter.size(),
        max_length=max_length,
        lengths=histogram(counter.lengths),
        preview=preview,
    )
