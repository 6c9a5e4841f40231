"""Manners: a customer's question -> a courteous answer, preferred to a curt one with the same facts in it.

Both answers are true and of like length; only their tone differs, so that a model cannot tell them apart by
what they say. The courteous one greets by name and offers help, the curt one does neither and blames.
"""

from __future__ import annotations

from chance import Chance

SYSTEM = "Answer the customer."
NAMES = ("Anna", "Peter", "Grace", "Samuel", "Rosa", "Henry", "Olga", "Felix", "Clara", "David")
ITEMS = ("table", "bridge", "report", "garden", "window", "engine", "ticket", "camera", "boat", "letter")
TOWNS = ("Paris", "London", "Berlin", "Madrid", "Rome", "Vienna", "Oslo", "Lima")
DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday")
TOPICS = (
    ("When will my {item} arrive in {town}?", "The {item} will arrive in {town} on {day}."),
    ("What does the {item} cost?", "The {item} costs {amount} euros."),
    ("Can I send the {item} back?", "You can send the {item} back until {day}."),
    ("Is the {item} in the shop in {town}?", "The shop in {town} has the {item} from {day}."),
    ("Who has my {item} now?", "The office in {town} has the {item} since {day}."),
    ("How long will the work on the {item} take?", "The work on the {item} will take {amount} days."),
    ("Where do I pay for the {item}?", "You pay {amount} euros for the {item} in {town}."),
    ("My {item} is broken, what now?", "Bring the {item} to {town} and we will repair it by {day}."),
)
GREETINGS = (
    "Good morning {name}.",
    "Hello {name}, thank you for asking.",
    "Dear {name}, thanks for your letter.",
)
OFFERS = (
    "Please write to us if we can help.",
    "We are glad to help you.",
    "Please tell us if you need more.",
)
SNUBS = ("Read the page first.", "You should really know this by now.", "Everybody knows this, why ask us?")
DISMISSALS = (
    "Do not write to us again.",
    "We have no more time for you.",
    "That is all, and it is your problem.",
)


def row(chance: Chance) -> tuple[str, str, str]:
    """A question, the courteous answer, and the curt one."""
    asked, said = chance.pick(TOPICS)
    facts = {
        "name": chance.pick(NAMES),
        "item": chance.pick(ITEMS),
        "town": chance.pick(TOWNS),
        "day": chance.pick(DAYS),
        "amount": str(chance.number(2, 99)),
    }
    kind = " ".join((chance.pick(GREETINGS), said, chance.pick(OFFERS)))
    curt = " ".join((chance.pick(SNUBS), said, chance.pick(DISMISSALS)))
    question = f"{asked} {facts['name']}"
    return question.format(**facts), kind.format(**facts), curt.format(**facts)
