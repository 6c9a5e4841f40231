"""Seeds from seeds: the same in every process, on every machine."""

from __future__ import annotations

_MASK = (1 << 63) - 1


def mixed(seed: int, *names: object) -> int:
    """One seed of a seed and names (FNV-1a, 63 bits)."""
    value = seed & _MASK
    for byte in "/".join(map(str, names)).encode():
        value = (value ^ byte) * 0x100000001B3 & _MASK
    return value


def row_seed(seed: int, row: int) -> int:
    """Seed of one row of a step: whatever rows stand beside it, and in whatever micro-batch."""
    return mixed(seed, "row", row)
