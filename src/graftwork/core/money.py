"""Money: integer micro-dollars, rounded up once where a price meets a quantity."""

from __future__ import annotations

MICRO = 1_000_000
"""Micro-dollars in one dollar."""


def tokens_cost(tokens: int, price_per_million: int) -> int:
    """Cost in micro-dollars of ``tokens`` at ``price_per_million`` micro-dollars, rounded up."""
    return -(-tokens * price_per_million // MICRO)


def seconds_cost(seconds: float, price_per_hour: int) -> int:
    """Cost in micro-dollars of machine time at ``price_per_hour`` micro-dollars, by the started second."""
    whole = int(seconds) + (1 if seconds > int(seconds) else 0)
    return -(-whole * price_per_hour // 3600)


def dollars(micro: int) -> str:
    """``$1.234567`` without trailing zeros beyond cents: for people."""
    sign = "-" if micro < 0 else ""
    whole, fraction = divmod(abs(micro), MICRO)
    digits = f"{fraction:06d}".rstrip("0").ljust(2, "0")
    return f"{sign}${whole}.{digits}"


def parse_dollars(text: str) -> int:
    """Micro-dollars of a decimal dollar amount such as ``5`` or ``$0.25``.

    Raises:
        ValueError: not a non-negative amount with at most six decimals.
    """
    whole, _, fraction = text.strip().removeprefix("$").partition(".")
    if not whole.isdigit() or (fraction and not fraction.isdigit()) or len(fraction) > 6:
        raise ValueError(f"{text!r} is not a dollar amount such as 5 or 0.25")
    return int(whole) * MICRO + int(fraction.ljust(6, "0") or "0")
