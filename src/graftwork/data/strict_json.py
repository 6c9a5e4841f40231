"""JSON from strangers: parsed strictly, and what is wrong with it said in a code.

orjson parses (it refuses NaN, infinities, lone surrogates and broken UTF-8, and does not recurse without
bound); what it lets pass, duplicate keys and NUL characters, is looked for behind it. Python's own parser
is used only to tell what kind of mistake a line has that was refused already.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from math import isinf
from typing import Any

import orjson

MAX_DEPTH = 32
_KEY = re.compile(rb'"[ \t\r\n]*:')
_SURROGATE = re.compile("[\ud800-\udfff]")


@dataclass(frozen=True, slots=True)
class Defect:
    """A mistake: its code in ``FINDINGS``, a sentence, and the path within the value."""

    code: str
    message: str
    field: str | None = None


class _Doubled(dict[str, Any]):
    """An object that had keys twice."""

    doubled: list[str]


def parse(raw: bytes, max_depth: int = MAX_DEPTH) -> tuple[Any, list[Defect]]:
    """The value of ``raw`` and its defects; the value is None when it could not be parsed. Never raises."""
    if b"\0" in raw:
        return None, [Defect("nul_character", f"There is a NUL byte at byte {raw.index(0) + 1}.")]
    try:
        value = orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        return None, [_refused(raw, error, max_depth)]
    if raw.count(b"[") + raw.count(b"{") > max_depth and depth(value) > max_depth:
        return None, [_too_deep(max_depth)]
    defects = _duplicates(raw, value)
    if b"\\u0000" in raw:
        defects += [
            Defect("nul_character", "The text holds a NUL character (\\u0000).", path or None)
            for path, text in strings(value)
            if "\0" in text
        ]
    return value, defects


def utf8_defect(raw: bytes) -> Defect | None:
    """The first place that is not UTF-8, or None."""
    try:
        raw.decode()
    except UnicodeDecodeError as error:
        if raw.startswith((b"\xff\xfe", b"\xfe\xff")):
            return Defect("invalid_utf8", "The file is UTF-16, not UTF-8.")
        found = raw[error.start : error.start + 1].hex()
        return Defect("invalid_utf8", f"Byte {error.start + 1} (0x{found}) is not UTF-8.")
    return None


def strings(value: Any, path: str = "") -> Iterator[tuple[str, str]]:
    """Every string in a JSON value, keys included, with the path to it."""
    stack: list[tuple[str, Any]] = [(path, value)]
    while stack:
        path, item = stack.pop()
        if isinstance(item, str):
            yield path, item
        elif isinstance(item, list):
            stack.extend((f"{path}[{index}]", inner) for index, inner in enumerate(item))
        elif isinstance(item, dict):
            for key, inner in item.items():
                yield path, key
                stack.append((f"{path}.{key}" if path else key, inner))


def depth(value: Any) -> int:
    """How deep lists and objects are nested: 0 for a string or number."""
    deepest = 0
    stack: list[tuple[int, Any]] = [(0, value)]
    while stack:
        level, item = stack.pop()
        if isinstance(item, list | dict):
            deepest = max(deepest, level + 1)
            inner = item.values() if isinstance(item, dict) else item
            stack.extend((level + 1, one) for one in inner)
    return deepest


def _duplicates(raw: bytes, value: Any) -> list[Defect]:
    """Keys that stand twice in one object.

    Parsing keeps one of two equal keys, so the value written out again has fewer ``":`` than the line,
    whether they are keys or lie in strings. Only escapes could hide the difference (``\\u0022``,
    ``\\u003a``): with them, or with a difference, Python's slow parser looks.
    """
    if b"\\u00" not in raw and len(_KEY.findall(raw)) == len(_KEY.findall(orjson.dumps(value))):
        return []
    try:
        slow = json.loads(raw, object_pairs_hook=_pairs)
    except (ValueError, RecursionError):  # orjson took it: a number beyond Python's digit limit, or the like
        return []
    return [
        Defect(
            "duplicate_key", f"The key {key!r} stands twice in one object.", f"{path}.{key}" if path else key
        )
        for path, item in _doubled(slow)
        for key in item.doubled
    ]


def _pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len({key for key, _ in pairs}) == len(pairs):
        return dict(pairs)
    item = _Doubled(pairs)
    seen: set[str] = set()
    item.doubled = []
    for key, _ in pairs:
        if key in seen and key not in item.doubled:
            item.doubled.append(key)
        seen.add(key)
    return item


def _doubled(value: Any) -> list[tuple[str, _Doubled]]:
    found: list[tuple[str, _Doubled]] = []
    stack: list[tuple[str, Any]] = [("", value)]
    while stack:
        path, item = stack.pop()
        if isinstance(item, _Doubled):
            found.append((path, item))
        if isinstance(item, list):
            stack.extend((f"{path}[{index}]", inner) for index, inner in enumerate(item))
        elif isinstance(item, dict):
            stack.extend((f"{path}.{key}" if path else key, inner) for key, inner in item.items())
    return found


def _refused(raw: bytes, error: orjson.JSONDecodeError, max_depth: int) -> Defect:
    """Which mistake made orjson refuse ``raw``."""
    broken = utf8_defect(raw)
    if broken is not None:
        return broken
    odd: list[str] = []

    def number(text: str) -> float:
        if isinf(float(text)):
            odd.append(text)
        return 0.0

    try:
        value = json.loads(raw, parse_constant=odd.append, parse_float=number)
    except RecursionError:
        return _too_deep(max_depth)
    except ValueError:
        what = str(error).split(": line ")[0]
        return Defect("invalid_json", f"Not JSON at character {error.pos + 1}: {what}.")
    if odd:
        return Defect("nonfinite_number", f"{odd[0]} is not a JSON number.")
    for path, text in strings(value):
        if _SURROGATE.search(text):
            return Defect("lone_surrogate", "The text holds half of a surrogate pair.", path or None)
    return _too_deep(max_depth) if depth(value) > max_depth else Defect("invalid_json", f"Not JSON: {error}.")


def _too_deep(max_depth: int) -> Defect:
    return Defect("too_deep", f"Values are nested more than {max_depth} deep.")
