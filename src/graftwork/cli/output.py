"""How commands speak: stdout is data, stderr is talk.

A table on a terminal, tab-separated lines without a header in a pipe, one JSON document with ``--json``.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from graftwork.core.errors import InvalidRequest

Row = dict[str, Any]


@dataclass(frozen=True)
class Column:
    """One column of a table: the key in the row, its heading, and how a value is shown."""

    key: str
    heading: str
    right: bool = False


def say(text: str = "") -> None:
    """One line of talk, on stderr."""
    print(text, file=sys.stderr, flush=True)  # noqa: T201


def put(text: str) -> None:
    """One line of data, on stdout."""
    print(text, flush=True)  # noqa: T201


def put_json(value: Any) -> None:
    """One JSON document on stdout; indented on a terminal, one line in a pipe."""
    put(json.dumps(value, indent=2 if sys.stdout.isatty() else None, ensure_ascii=False))


def confirm(why: str, fix: str) -> None:
    """Ask on the terminal whether to start.

    Args:
        why: what is wrong where nobody can be asked; ``fix``: what to do about it.

    Raises:
        InvalidRequest: nobody can be asked (``confirmation_needed``); the answer is no (``not_confirmed``).
    """
    if not sys.stdin.isatty():
        raise InvalidRequest(why, fix=fix, code="confirmation_needed")
    say("Start? [y/N] ")
    if input().strip().lower() not in {"y", "yes"}:
        raise InvalidRequest("Not started.", code="not_confirmed")


def table(
    rows: Iterable[Row],
    columns: Sequence[Column],
    *,
    as_json: bool = False,
    quiet: bool = False,
    people: bool = False,
) -> None:
    """Print rows in the shape the caller can use: table, TSV, JSON, or the first column alone.

    ``people`` asks for the table in a pipe too, where no program is meant to read it.
    """
    rows = list(rows)
    if as_json:
        put_json(rows)
    elif quiet:
        for row in rows:
            put(cell(row.get(columns[0].key)))
    elif people or sys.stdout.isatty():
        _rich_table(rows, columns)
    else:
        for row in rows:
            put("\t".join(cell(row.get(column.key)).replace("\t", " ") for column in columns))


def _rich_table(rows: list[Row], columns: Sequence[Column]) -> None:
    from rich.console import Console
    from rich.table import Table

    view = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        view.add_column(column.heading, justify="right" if column.right else "left", overflow="fold")
    for row in rows:
        view.add_row(*(cell(row.get(column.key)) for column in columns))
    # Values are data: `ft:seedling:acme` holds no emoji and `[x]` no markup.
    plain = Console(no_color=bool(os.environ.get("NO_COLOR")), markup=False, emoji=False, highlight=False)
    plain.print(view)


def cell(value: Any) -> str:
    """A value as text; nothing is ``-``."""
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}"
    return str(value)


def when(unix: float | None) -> str:
    """A time for people: local, to the minute; exact seconds in a pipe."""
    if unix is None:
        return "-"
    shape = "%Y-%m-%d %H:%M" if sys.stdout.isatty() else "%Y-%m-%dT%H:%M:%S%z"
    return time.strftime(shape, time.localtime(unix))


def duration(seconds: float | None) -> str:
    """``2m05s``: a span for people."""
    if seconds is None:
        return "-"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours}h{minutes:02d}m"
    return f"{minutes}m{rest:02d}s" if minutes else f"{rest}s"


BARS = "▁▂▃▄▅▆▇█"


def sparkline(values: Sequence[float], width: int = 32) -> str:
    """The course of a series in one line: mean of each bucket, scaled between lowest and highest."""
    points = [v for v in values if v == v]
    if not points:
        return ""
    size = max(1, -(-len(points) // width))
    means = [sum(points[i : i + size]) / len(points[i : i + size]) for i in range(0, len(points), size)]
    low, high = min(means), max(means)
    scale = (len(BARS) - 1) / (high - low) if high > low else 0.0
    return "".join(BARS[int((value - low) * scale)] for value in means)
