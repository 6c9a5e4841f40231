"""Column types that turn rows into nouns and back, alike on SQLite and PostgreSQL."""

from __future__ import annotations

import json
import math
from enum import StrEnum
from typing import Any

from sqlalchemy import Text
from sqlalchemy.engine import Dialect
from sqlalchemy.types import TypeDecorator


def dump_json(value: Any) -> str:
    """JSON text of ``value``; NaN and infinities, which JSON lacks, become null."""
    try:
        return json.dumps(value, allow_nan=False)
    except ValueError:
        return json.dumps(_finite(value), allow_nan=False)


def clean_text(value: str) -> str:
    """``value`` without what a database refuses: NUL bytes and lone surrogates."""
    if value.isascii() and "\x00" not in value:
        return value
    return value.replace("\x00", "").encode("utf-8", "replace").decode("utf-8")


def _finite(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return value


class CleanText(TypeDecorator[str]):
    """Text of unknown origin, made storable."""

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: Dialect) -> str | None:
        """Drop what PostgreSQL refuses."""
        return None if value is None else clean_text(value)


class JsonText(TypeDecorator[Any]):
    """JSON kept as text: the same bytes on both databases."""

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: Any, dialect: Dialect) -> str | None:
        """Python value to JSON text; None stays NULL."""
        return None if value is None else dump_json(value)

    def process_result_value(self, value: str | None, dialect: Dialect) -> Any:
        """JSON text to Python value."""
        return None if value is None else json.loads(value)


class TupleText(JsonText):
    """A tuple of plain values, kept as a JSON array."""

    cache_ok = True

    def process_result_value(self, value: str | None, dialect: Dialect) -> Any:
        """JSON array to tuple."""
        return () if value is None else tuple(json.loads(value))


class EnumText(TypeDecorator[StrEnum]):
    """One of our ``StrEnum`` states, kept as its text."""

    impl = Text
    cache_ok = True

    def __init__(self, states: type[StrEnum]) -> None:
        super().__init__()
        self.states = states

    def process_bind_param(self, value: StrEnum | str | None, dialect: Dialect) -> str | None:
        """State to text; a text that is no state is a ``ValueError``."""
        return None if value is None else self.states(value).value

    def process_result_value(self, value: str | None, dialect: Dialect) -> StrEnum | None:
        """Text to state."""
        return None if value is None else self.states(value)
