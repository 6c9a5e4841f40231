"""``graft dataset``: look at training data before it costs anything."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cyclopts import App

from graftwork.cli.connection import Server, connect, data_folder, existing_file
from graftwork.cli.output import duration, put, put_json, say, sparkline
from graftwork.core.errors import Unauthorized
from graftwork.core.specs import Method

if TYPE_CHECKING:
    from graftwork.data import Renderer

app = App(name="dataset", help="Check, make and alter data sets before training.", help_format="plaintext")
_TOOLS = "graftwork.cli.dataset_tools"
app.command(f"{_TOOLS}:split", name="split", help="Divide rows into parts that know nothing of each other.")
app.command(f"{_TOOLS}:dedup", name="dedup", help="Drop rows that stood before, also nearly the same ones.")
app.command(f"{_TOOLS}:mix", name="mix", help="One data set out of several, each by its weight.")
app.command(f"{_TOOLS}:stats", name="stats", help="Lengths, tokens, roles, labels, repetitions.")
app.command(f"{_TOOLS}:diff", name="diff", help="Rows removed, added and changed between two data sets.")
app.command("graftwork.cli.synth:synth", name="synth", help="New rows from documents or seeds, by a model.")
_KEPT = "graftwork.cli.kept"
app.command(f"{_KEPT}:keep", name="keep", help="Opt in or out of having the project's requests kept.")
app.command(f"{_KEPT}:from_logs", name="from-logs", help="A data set out of requests that were kept.")
app.command(f"{_KEPT}:forget", name="forget", help="Delete kept requests for good.")


@app.command
def check(file: str, /, *, base: str = "seedling", method: Method = "sft", json: bool = False) -> int:
    """Check a data set: every problem with its line, then rows, tokens, duplicates and what carries loss.

    Asks the server, and where none is named checks here, by the same validator. Exit code 0: it can be
    trained on; 2: it cannot.

    Parameters
    ----------
    file:
        Training data: JSONL, JSON, CSV or Parquet.
    base:
        The base model whose tokenizer and template count the tokens.
    method:
        What the rows are for: sft, dpo, orpo, kto or cpt.
    """
    path = existing_file(file)
    report = _report(path, base, method)
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


def _report(path: Path, base: str, method: Method) -> dict[str, Any]:
    """The server's report; where no server is named, this machine's own, by the same validator."""
    try:
        server = connect()
    except Unauthorized:
        return _here(path, base, method)
    return checked(server, path, base, method)


def checked(server: Server, file: Path, base: str, method: Method) -> dict[str, Any]:
    """The server's report on a data set."""
    return server.send("/api/datasets/check", file, model=base, method=method)


def _here(path: Path, base: str, method: Method) -> dict[str, Any]:
    from graftwork.data import validate

    renderer, context = base_here(base)
    report = validate(
        path.read_bytes(), filename=path.name, renderer=renderer, max_length=context, method=method
    )
    return report.to_json()


def base_here(base: str) -> tuple[Renderer, int]:
    """This machine's own renderer of a base model, and the model's context in tokens."""
    from graftwork.data import Renderer
    from graftwork.models import Catalogue, locate

    cache = data_folder() / "models"
    entry = Catalogue(allow=("*",), cache=cache).get(base)
    return Renderer.load(locate(entry, cache)), entry.context


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
    form, size = report.get("format") or {}, report.get("size") or {}
    shape = f"{form.get('shape') or 'unknown'} in {form.get('container') or 'unknown'}"
    lines = [f"  {report['rows']:,} rows of {shape}"]
    if size:
        lines.append(f"  {size['tokens']:,} tokens, {size['labelled']:,} of them carry loss")
        lines.append(f"  longest row {size['longest']:,} tokens  {histogram(report.get('lengths') or [])}")
    if report.get("duplicates"):
        lines.append(f"  {report['duplicates']} duplicate rows")
    if size.get("over_length"):
        lines.append(
            f"  {size['over_length']} rows are longer than {report['max_length']} tokens and will be cut"
        )
    estimate = report.get("estimate") or {}
    if estimate:
        steps, tokens = f"{estimate['steps']:,} steps", f"{estimate['trained_tokens']:,} tokens"
        took = duration(estimate["seconds"])
        lines.append(f"  plan: {steps}, {tokens}, about {took}, {estimate['price']}")
    return lines


def histogram(buckets: list[dict[str, int]]) -> str:
    """Row counts by length as a sparkline, with the upper ends of the first and last bucket."""
    if not buckets:
        return ""
    counts = sparkline([float(bucket["rows"]) for bucket in buckets])
    return f"(rows by length, {buckets[0]['upto']} to {buckets[-1]['upto']}: {counts})"


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
