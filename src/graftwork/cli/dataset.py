"""``graft dataset``: look at training data before it costs anything."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from cyclopts import App

from graftwork.cli.connection import connect, existing_file
from graftwork.cli.output import put, put_json, say

app = App(name="dataset", help="Check data sets before training.", help_format="plaintext")


@app.command
def check(file: str, /, *, base: str = "seedling", json: bool = False) -> int:
    """Check a data set: every problem with its line, then rows, tokens, duplicates and what carries loss.

    Runs here, without a server, for the built-in base model and for local folders; asks the server otherwise.
    Exit code 0: it can be trained on; 2: it cannot.

    Parameters
    ----------
    file:
        Training data: JSONL, JSON, CSV or Parquet.
    base:
        The base model whose tokenizer and template count the tokens.
    """
    path = existing_file(file)
    report = _report(path, base)
    if json:
        put_json(report)
        return 0 if report["ok"] else 2
    complain(report, path)
    for line in summary(report):
        say(line)
    for line in preview(report):
        say(line)
    say(
        f"{path}: "
        + ("good to train on." if report["ok"] else f"{_errors(report)} problems; mend them first.")
    )
    return 0 if report["ok"] else 2


def _report(path: Path, base: str) -> dict[str, Any]:
    with path.open("rb") as handle:
        return connect().call(
            "POST", "/api/datasets/check", data={"model": base}, files={"file": (path.name, handle)}
        )


def _errors(report: dict[str, Any]) -> int:
    return sum(finding["severity"] == "error" for finding in report["findings"])


def complain(report: dict[str, Any], path: Path) -> None:
    """Every finding on stdout, one a line: ``file:line: severity code field: message fix``."""
    for finding in report["findings"]:
        where = f"{path}:{finding['line']}" if finding.get("line") else str(path)
        field = f" {finding['field']}" if finding.get("field") else ""
        label = f"{finding['severity']} [{finding['code']}]{field}"
        put(f"{where}: {label}: {finding['message']} {finding['fix']}".rstrip())


def summary(report: dict[str, Any]) -> list[str]:
    """What the data is: format, rows, tokens, lengths, duplicates, leaks, estimate."""
    tokens = report.get("tokens") or {}
    lines = [f"  {report['rows']:,} rows, {report.get('format', 'unknown format')}"]
    if tokens.get("total"):
        lines.append(f"  {tokens['total']:,} tokens, {tokens.get('labelled', 0):,} of them carry loss")
    if report.get("duplicates"):
        lines.append(f"  {report['duplicates']} duplicate rows")
    if report.get("over_length"):
        lines.append(f"  {report['over_length']} rows longer than the model's context; they will be cut")
    estimate = report.get("estimate") or {}
    if estimate:
        lines.append(
            f"  plan: {estimate['steps']:,} steps, {estimate['trained_tokens']:,} tokens, {estimate['price']}"
        )
    return lines


def preview(report: dict[str, Any], rows: int = 2) -> list[str]:
    """The first rows with the parts that carry loss marked: ``»…«`` (bold green on a terminal)."""
    start, end = ("\x1b[1;32m", "\x1b[0m") if sys.stderr.isatty() else ("»", "«")
    lines: list[str] = []
    for row in (report.get("preview") or [])[:rows]:
        text = "".join(f"{start}{piece}{end}" if carries else piece for piece, carries in _merged(row))
        lines += ["  loss on the marked part:", *(f"    {line}" for line in text.splitlines())]
    return lines


def _merged(row: dict[str, Any]) -> list[tuple[str, bool]]:
    """Neighbouring pieces of the same kind as one."""
    merged: list[tuple[str, bool]] = []
    for piece, carries in row["pieces"]:
        if merged and merged[-1][1] == carries:
            merged[-1] = (merged[-1][0] + piece, carries)
        else:
            merged.append((piece, carries))
    return merged
