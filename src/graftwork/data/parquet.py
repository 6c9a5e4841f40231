"""Rows of a Parquet file as plain JSON values."""

from __future__ import annotations

import io
from collections.abc import Iterator
from math import isfinite
from typing import Any

from graftwork.data.findings import Findings

_MAX_UNPACKED = 4 << 30
"""Parquet compresses; a small file may claim to hold a very large table."""


def read_parquet(data: bytes, notes: Findings) -> Iterator[dict[str, Any] | None]:
    """The rows in order, None for one with a defect; nulls, which fill a table's rectangle, are left out."""
    import pyarrow as arrow
    import pyarrow.parquet as parquet

    try:
        file = parquet.ParquetFile(io.BytesIO(data))
        meta = file.metadata
        unpacked = sum(meta.row_group(index).total_byte_size for index in range(meta.num_row_groups))
        if unpacked > _MAX_UNPACKED:
            notes.add("file_too_large", f"Unpacked, the table has {unpacked} bytes.")
            return
        number = 0
        for batch in file.iter_batches(batch_size=1024):
            for row in batch.to_pylist():
                number += 1
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


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]
