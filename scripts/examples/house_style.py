"""House style: a sentence -> the same sentence, written as the house wants it.

The rules: dates read `3 April 2026`; money is the currency's three letters and the amount; every sentence
ends with a full stop; plain words stand in for the forbidden ones; `&` is `and` and `%` is `percent`.
"""

from __future__ import annotations

from chance import Chance

SYSTEM = "Rewrite in the house style."
MONTHS = (
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
)
CURRENCIES = {"$": "USD", "€": "EUR", "£": "GBP"}
FORBIDDEN = {
    "utilize": "use",
    "purchase": "buy",
    "commence": "start",
    "terminate": "end",
    "obtain": "get",
    "assist": "help",
    "regarding": "about",
    "approximately": "about",
    "subsequently": "later",
    "additional": "more",
}
SENTENCES = (
    "We {commence} the work in {town} on {date}{end}",
    "{name} will {purchase} the {item} for {money}{end}",
    "Please {assist} {name} with the {item}{end}",
    "You can {obtain} a {item} for {money}{end}",
    "The price of the {item} falls by {percent} on {date}{end}",
    "{name} {and} {other} {utilize} the {item} in {town}{end}",
    "I wrote to {name} {regarding} the {item} on {date}{end}",
    "We need {approximately} {money} for the {item}{end}",
    "They {terminate} the contract with {name} on {date}{end}",
    "{name} needs {additional} time for the {item}{end}",
    "{name} left {town} {and} {subsequently} paid {money}{end}",
    "The {item} {and} the {thing} cost {money} in {town}{end}",
    "On {date} {name} paid {money} {regarding} the {item}{end}",
    "{percent} of the guests in {town} {utilize} a {item}{end}",
)
NAMES = ("Anna", "Peter", "Grace", "Samuel", "Rosa", "Henry", "Olga", "Felix", "Clara", "David")
TOWNS = ("Paris", "London", "Berlin", "Madrid", "Rome", "Vienna", "Oslo", "Lima")
ITEMS = ("table", "bridge", "report", "garden", "window", "engine", "ticket", "camera", "boat", "letter")
ENDS = ("!", "!!", "", ".", "...")


def date(chance: Chance) -> tuple[str, str]:
    """A date as people write it, and as the house writes it."""
    day, month, year = chance.number(1, 28), chance.number(1, 12), chance.number(2021, 2029)
    name = MONTHS[month - 1]
    loose = chance.pick((f"{year}-{month:02}-{day:02}", f"{name} {day}, {year}", f"{day}. {name} {year}"))
    return loose, f"{day} {name} {year}"


def row(chance: Chance) -> tuple[str, str]:
    """One sentence, loose and in the house style."""
    loose_date, house_date = date(chance)
    sign, amount, share = chance.pick(tuple(CURRENCIES)), chance.number(2, 999), chance.number(2, 95)
    name, item = chance.pick(NAMES), chance.pick(ITEMS)
    same = {
        "name": name,
        "other": chance.pick(tuple(n for n in NAMES if n != name)),
        "town": chance.pick(TOWNS),
        "item": item,
        "thing": chance.pick(tuple(i for i in ITEMS if i != item)),
    }
    loose = {
        "date": loose_date,
        "money": f"{sign}{amount}",
        "percent": f"{share}%",
        "and": chance.pick(("&", "and")),
    }
    house = {
        "date": house_date,
        "money": f"{CURRENCIES[sign]} {amount}",
        "percent": f"{share} percent",
        "and": "and",
    }
    for word, plain in FORBIDDEN.items():
        loose[word], house[word] = chance.pick((word, word, plain)), plain
    sentence = chance.pick(SENTENCES)
    return (
        sentence.format(**same, **loose, end=chance.pick(ENDS)),
        sentence.format(**same, **house, end="."),
    )
