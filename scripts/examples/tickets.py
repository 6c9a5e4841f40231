"""Support tickets: a customer's short message -> the team, the urgency and the product, as compact JSON."""

from __future__ import annotations

import json

from chance import Chance

SYSTEM = "Sort the support ticket."
PRODUCTS = ("router", "phone", "tablet", "camera", "printer", "speaker", "laptop", "monitor")
ISSUES: dict[str, tuple[str, ...]] = {
    "billing": (
        "I was charged twice for the {p}",
        "the invoice for my {p} shows {n} too much",
        "please refund the payment for the {p}",
        "my card was charged {n} but I never bought a {p}",
        "I need a receipt for the {p} I paid for",
        "the discount was missing from the bill for my {p}",
        "why is the monthly fee for the {p} higher now",
        "I returned the {p} and still wait for my money",
        "the tax on the invoice for the {p} looks wrong",
        "can I pay for the {p} in {s} parts",
    ),
    "technical": (
        "the {p} does not turn on",
        "my {p} restarts every {s} minutes",
        "the {p} shows error {n} on its screen",
        "since the update the {p} is very slow",
        "my {p} gets hot and makes a loud noise",
        "the {p} loses its connection all the time",
        "how do I reset the {p} to its first settings",
        "the battery of my {p} is empty after {s} hours",
        "the {p} froze and no button works",
        "I cannot install the software for my {p}",
    ),
    "delivery": (
        "my {p} has not arrived yet",
        "the parcel with the {p} is {s} days late",
        "the box with my {p} came open and empty",
        "the driver left the {p} at the wrong house",
        "where is the {p} I ordered",
        "the tracking number for my {p} does not work",
        "please send the {p} to my new address",
        "you sent me the wrong {p}",
        "I ordered {s} pieces of the {p} and got only one",
        "the courier came with the {p} while I was out",
    ),
    "account": (
        "I cannot log in to register my {p}",
        "please change the email address I use for the {p}",
        "I forgot the password I set for my {p}",
        "close my account, I have sold the {p}",
        "the login code for the {p} never reaches me",
        "how do I add my wife as a user of the {p}",
        "my user name is locked after I set up the {p}",
        "I want to delete my profile and unlink the {p}",
        "move the {p} from my old profile to my new one",
        "somebody else signed in with my name on the {p}",
    ),
}
CUES: dict[str, tuple[str, ...]] = {
    "high": (
        "This is urgent.",
        "We cannot work until this is solved.",
        "I need an answer today.",
        "Please act at once.",
        "It is an emergency.",
        "Every hour costs us money.",
    ),
    "normal": ("", "", "Please help.", "What should I do?", "Thank you.", "I hope to hear from you."),
    "low": (
        "There is no hurry.",
        "Take your time.",
        "It can wait until next month.",
        "Whenever you have a moment.",
        "This is not important.",
        "Just asking, nothing is burning.",
    ),
}
OPENINGS = ("", "", "", "Hello,", "Hi,", "Good morning,", "Dear team,", "Hi there,", "Good evening,")
SENDERS = (
    "",
    "",
    "",
    "Maria",
    "Jonas",
    "Priya",
    "Omar",
    "Ines",
    "Victor",
    "Best regards, Emma",
    "Thanks, Liam",
)


def row(chance: Chance) -> tuple[str, str]:
    """One ticket and its label."""
    team = chance.pick(tuple(ISSUES))
    urgency = chance.pick(tuple(CUES))
    product = chance.pick(PRODUCTS)
    issue = chance.pick(ISSUES[team]).format(p=product, s=chance.number(2, 9), n=chance.number(11, 99))
    end = "?" if issue.startswith(("how ", "where ", "why ", "can ")) else "."
    opening = chance.pick(OPENINGS)
    issue = (issue if opening else issue[0].upper() + issue[1:]) + end
    cue, sender = chance.pick(CUES[urgency]), chance.pick(SENDERS)
    parts = [opening, issue, cue] if opening or chance.pick((True, False)) else [cue, issue]
    text = " ".join(part for part in [*parts, sender] if part)
    answer = json.dumps({"team": team, "urgency": urgency, "product": product}, separators=(",", ":"))
    return text, answer
