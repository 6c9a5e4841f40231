"""What is blotted out of a kept request: addresses, numbers and keys that name a person or open a door.

A pattern is no promise: it finds the usual ways of writing these, not every way. An operator can add a
function of one's own (``GatewaySettings.redact``), and whoever keeps nothing needs none.
"""

from __future__ import annotations

import re
from typing import Any

# every repetition is bounded and begins where a word does: a long text without a hit costs one pass
_MAIL = re.compile(
    r"(?<![A-Za-z0-9._%+-])[A-Za-z0-9._%+-]{1,64}@[A-Za-z0-9-]{1,63}(?:\.[A-Za-z0-9-]{1,63}){0,8}\.[A-Za-z]{2,24}"
)
_KEY = re.compile(
    r"\b(?:sk|pk|rk|gw|ghp|gho|xox[bap]|hf|AKIA|AIza)[-_]?[A-Za-z0-9_-]{16,512}|"
    r"\beyJ[A-Za-z0-9_-]{10,2048}\.[A-Za-z0-9_-]{10,4096}\.[A-Za-z0-9_-]{5,1024}"
)
_BANK = re.compile(r"\b[A-Z]{2}\d{2}(?: ?[A-Z0-9]{4}){3,7}(?: ?[A-Z0-9]{1,3})?\b")
_DIGITS = re.compile(r"(?<![\w.])\+?\(?\d(?:[ ().\-/]{0,2}\d){7,18}(?![\w])")


def redacted(text: str) -> str:
    """``text`` with what it found replaced by ``[email]``, ``[key]``, ``[iban]``, ``[card]``, ``[phone]``."""
    text = _KEY.sub("[key]", text)
    text = _MAIL.sub("[email]", text)
    text = _BANK.sub("[iban]", text)
    return _DIGITS.sub(_number, text)


def redact_all(value: Any) -> Any:
    """JSON with every string in it redacted; keys of objects stay."""
    if isinstance(value, str):
        return redacted(value)
    if isinstance(value, list):
        return [redact_all(item) for item in value]
    if isinstance(value, dict):
        return {key: redact_all(item) for key, item in value.items()}
    return value


def _number(match: re.Match[str]) -> str:
    """A card by its check digit, a telephone number by how it is written; other long numbers stay."""
    text = match[0]
    digits = re.sub(r"\D", "", text)
    if 13 <= len(digits) <= 19 and _luhn(digits):
        return "[card]"
    written = text.startswith("+") or "(" in text or re.search(r"\d[ .\-/]\d", text) is not None
    other = re.fullmatch(r"\d{4}-\d{2}-\d{2}|\d+\.\d+", text)  # a date, a fraction
    telephone = written and 8 <= len(digits) <= 15 and not other
    return "[phone]" if telephone else text


def _luhn(digits: str) -> bool:
    total = 0
    for place, digit in enumerate(reversed(digits)):
        number = int(digit) * (2 if place % 2 else 1)
        total += number - 9 if number > 9 else number
    return total % 10 == 0
