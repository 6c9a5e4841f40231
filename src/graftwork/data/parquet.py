"""Rows of a Parquet file as plain JSON values."""

from __future__ import annotations

import io
from collections.abc import Iterator
from math import isfinite
from typing import Any

from graftwork.data.findings import Findings

MAX_UNPACKED = 1 << 30
"""Bytes of all values together. Parquet compresses, and stores a repeated value once: a small file may hold
a table that no memory does."""


def read_parquet(
    data: bytes, notes: Findings, max_line: int, max_unpacked: int = MAX_UNPACKED
) -> Iterator[dict[str, Any] | None]:
    """The rows in order, None for one with a defect; nulls, which fill a table's rectangle, are left out.

    Reading stops with a finding where the values outgrow ``max_unpacked`` bytes.
    """
    import pyarrow as arrow
    import pyarrow.parquet as parquet

    try:
        file = parquet.ParquetFile(io.BytesIO(data))
        meta = file.metadata
        unpacked = sum(meta.row_group(index).total_byte_size for index in range(meta.num_row_groups))
        if unpacked > max_unpacked:
            notes.add("file_too_large", f"Unpacked, the table has {unpacked} bytes.")
            return
        number = total = 0
        # No value is larger than what the table has unpacked, so no batch is larger than what is allowed.
        for batch in file.iter_batches(batch_size=max(1, min(1024, max_unpacked // max(unpacked, 1)))):
            for row in batch.to_pylist():
                number += 1
                size = _size(row)
                total += size
                if total > max_unpacked:
                    notes.add("file_too_large", f"Unpacked, the rows up to {number} have {total} bytes.")
                    return
                if size > max_line:
                    notes.add(
                        "line_too_long", f"The row has {size} bytes; {max_line} are allowed.", line=number
                    )
                    yield None
                    continue
                plain = {
                    key: _plain(item, notes, number, key) for key, item in row.items() if item is not None
                }
                yield None if number in notes.bad else plain
    except (arrow.ArrowException, OSError, ValueError, KeyError, OverflowError) as error:
        notes.add("parquet_unreadable", f"The Parquet file cannot be read: {_first_line(error)}")


def _plain(value: Any, notes: Findings, number: int, path: str) -> Any:
    """A value as JSON would have it; what JSON has not stays as it is and fails the checks of its field."""
    if isinstance(value, dict):
        return {
            key: _plain(inner, notes, number, f"{path}.{key}")
            for key, inner in value.items()
            if inner is not None
        }
    if isinstance(value, list):
        return [_plain(inner, notes, number, f"{path}[{index}]") for index, inner in enumerate(value)]
    if isinstance(value, float) and not isfinite(value):
        notes.add("nonfinite_number", f"{value} is not a JSON number.", line=number, field=path)
    if isinstance(value, str) and "\0" in value:
        notes.add("nul_character", "The text holds a NUL character.", line=number, field=path)
    return value


def _size(value: Any) -> int:
    """About how many bytes a value has as JSON."""
    if isinstance(value, dict):
        return sum(len(key) + _size(item) for key, item in value.items())
    if isinstance(value, list | tuple):
        return sum(map(_size, value))
    return len(value) if isinstance(value, str | bytes) else 8


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]
