"""A held-out part of the rows."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from graftwork.data.rows import Row, loose_fingerprint


def split(rows: Sequence[Row], share: float, seed: int) -> tuple[list[Row], list[Row]]:
    """Divide rows into training rows and about ``share`` held out, both in their old order.

    Deterministic: which part a row falls into depends on its content, the seed and the other rows, not on
    their order. Rows that are equal but for case and white space stay together, so nothing held out was
    trained on. At least one group is held out when ``share`` is above 0 and there are two groups or more,
    and at least one stays.
    """
    keys = [loose_fingerprint(row) for row in rows]
    sizes: dict[str, int] = {}
    for key in keys:
        sizes[key] = sizes.get(key, 0) + 1
    if share <= 0 or len(sizes) < 2:
        return list(rows), []
    order = sorted(sizes, key=lambda key: hashlib.sha256(f"{seed}:{key}".encode()).digest())
    wanted = max(1, round(share * len(rows)))
    held: set[str] = set()
    count = 0
    for key in order[:-1]:
        if count >= wanted:
            break
        if count == 0 or count + sizes[key] <= wanted:
            held.add(key)
            count += sizes[key]
    return (
        [row for row, key in zip(rows, keys, strict=True) if key not in held],
        [row for row, key in zip(rows, keys, strict=True) if key in held],
    )
