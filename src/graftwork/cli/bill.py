"""``graft bill``: what was used, and what it costs."""

from __future__ import annotations

import time
from typing import Any

from graftwork.cli.connection import connect
from graftwork.cli.output import Column, put_json, say, table
from graftwork.core.errors import InvalidRequest
from graftwork.core.money import dollars

COLUMNS = [
    Column("kind", "what"),
    Column("model", "model"),
    Column("quantity", "quantity", right=True),
    Column("unit_price", "unit price", right=True),
    Column("amount", "amount", right=True),
]


def bill(*, since: str | None = None, until: str | None = None, json: bool = False) -> None:
    """The project's bill: one line per kind of use and model, and the total.

    Parameters
    ----------
    since:
        First day, as 2026-11-01; from the beginning when not given.
    until:
        The day after the last one.
    """
    found = connect().get("/api/bill", since=_day(since), until=_day(until))
    if json:
        put_json(found)
        return
    table(lines(found), COLUMNS)
    say(f"Total {dollars(found['total_micro'])}")


def lines(found: dict[str, Any]) -> list[dict[str, Any]]:
    """A bill's lines as table rows."""
    return [
        {
            "kind": line["kind"],
            "model": line["model"],
            "quantity": f"{line['quantity']:,} {line['unit']}",
            "unit_price": line["unit_price"],
            "amount": dollars(line["amount_micro"]),
        }
        for line in found["lines"]
    ]


def _day(text: str | None) -> float | None:
    if text is None:
        return None
    try:
        return time.mktime(time.strptime(text, "%Y-%m-%d"))
    except ValueError as error:
        raise InvalidRequest(
            f"{text!r} is not a day.", fix="Write it as 2026-11-01.", code="invalid_date"
        ) from error
