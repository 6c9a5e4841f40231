"""Look-ups: a question in words -> one line of a small query dialect.

A line reads `find TABLE where FIELD OP VALUE sort by FIELD limit N`; all but the table may be missing.
"""

from __future__ import annotations

from chance import Chance

SYSTEM = "Write the query."
TABLES = ("orders", "customers", "invoices", "tickets", "products")
PRICED = ("orders", "invoices", "products")
CITIES = ("Oslo", "Lima", "Paris", "Berlin", "Tokyo", "Cairo", "Madrid", "Boston", "Vienna", "Dublin")
NAMES = ("Anna", "Peter", "Grace", "Omar", "Rosa", "Henry", "Priya", "Felix")
STATES = ("open", "paid", "late", "closed", "new")
ASKS = ("Show", "List", "Find", "Get", "Give me", "Show me", "I want to see", "Please list", "Which are")
SORTS = {
    "newest first": "date desc",
    "oldest first": "date",
    "cheapest first": "price",
    "most expensive first": "price desc",
    "ordered by name": "name",
    "from A to Z": "name",
}


def condition(chance: Chance, priced: bool) -> tuple[str, str]:
    """A condition in words, and in the dialect; on the price only where there is one."""
    city, name, state = chance.pick(CITIES), chance.pick(NAMES), chance.pick(STATES)
    amount, year = chance.number(5, 950), chance.number(2018, 2026)
    general = (
        (f"in {city}", f'city = "{city}"'),
        (f"from {city}", f'city = "{city}"'),
        (f"of {name}", f'owner = "{name}"'),
        (f"that belong to {name}", f'owner = "{name}"'),
        (f"that are {state}", f'state = "{state}"'),
        (f"marked {state}", f'state = "{state}"'),
        (f"since {year}", f"year >= {year}"),
        (f"before {year}", f"year < {year}"),
        (f"made in {year}", f"year = {year}"),
    )
    prices = (
        (f"above {amount}", f"price > {amount}"),
        (f"that cost more than {amount}", f"price > {amount}"),
        (f"below {amount}", f"price < {amount}"),
        (f"cheaper than {amount}", f"price < {amount}"),
    )
    return chance.pick(general + prices if priced else general)


def row(chance: Chance) -> tuple[str, str]:
    """One question and its line."""
    table = chance.pick(TABLES)
    words, terms = condition(chance, table in PRICED)
    line = f"find {table} where {terms}"
    limit = chance.number(2, 50) if chance.pick((True, False)) else 0
    many = chance.pick((f"{limit} ", f"the first {limit} ", f"at most {limit} ")) if limit else ""
    if not limit:
        many = chance.pick(("all ", "the ", ""))
    orders = tuple(order for order in SORTS if table in PRICED or "price" not in SORTS[order])
    order = chance.pick(orders) if chance.pick((True, False)) else ""
    if order:
        line += f" sort by {SORTS[order]}"
    if limit:
        line += f" limit {limit}"
    ask = chance.pick(ASKS)
    text = f"{ask} {many}{table} {words}" + (f", {order}" if order else "")
    return text + ("?" if ask.startswith("Which") else chance.pick((".", ""))), line
