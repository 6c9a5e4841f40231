"""Scores of one answer against its reference: pure functions of two texts."""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Sequence
from typing import Any

import orjson

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)


def exact_match(answer: str, reference: str) -> bool:
    """Whether both are the same text, apart from white space around them."""
    return answer.strip() == reference.strip()


def token_f1(answer: str, reference: str) -> float:
    """F1 of the bags of words, in [0, 1], after lower-casing and dropping punctuation and articles.

    SQuAD's measure (Rajpurkar et al. 2016, ``evaluate-v1.1.py``); two texts without words are equal.
    """
    given, wanted = _squad_words(answer), _squad_words(reference)
    if not given or not wanted:
        return float(given == wanted)
    return _f1(sum((Counter(given) & Counter(wanted)).values()), len(given), len(wanted))


def rouge_l(answer: str, reference: str) -> float:
    """F1 of the longest common subsequence of words, in [0, 1] (ROUGE-L of one sentence, Lin 2004)."""
    given, wanted = _words(answer), _words(reference)
    if not given or not wanted:
        return float(given == wanted)
    return _f1(common_subsequence(given, wanted), len(given), len(wanted))


def common_subsequence(left: Sequence[str], right: Sequence[str]) -> int:
    """Length of the longest common subsequence.

    Bit-parallel (Hyyrö 2004): one addition of ``len(left)``-bit numbers for each item of ``right``.
    """
    places: dict[str, int] = {}
    for index, item in enumerate(left):
        places[item] = places.get(item, 0) | 1 << index
    full = (1 << len(left)) - 1
    row = full
    for item in right:
        hits = row & places.get(item, 0)
        row = ((row + hits) | (row - hits)) & full
    return len(left) - row.bit_count()


def is_json_document(text: str) -> bool:
    """Whether a text is a JSON object or array; a bare number or word is no document."""
    return text.strip()[:1] in {"{", "["} and is_json(text)


def is_json(text: str) -> bool:
    """Whether the whole text is one JSON value (strict: no NaN, no comments, no fences)."""
    try:
        orjson.loads(text)
    except orjson.JSONDecodeError:
        return False
    return True


def json_match(answer: str, reference: str) -> bool:
    """Whether both are JSON and the same value: the order of keys and white space do not count."""
    try:
        return same_value(orjson.loads(answer), orjson.loads(reference))
    except orjson.JSONDecodeError:
        return False


def same_value(left: Any, right: Any) -> bool:
    """Equality of JSON values: ``1`` equals ``1.0``, but ``true`` is no number."""
    if isinstance(left, bool) or isinstance(right, bool):
        return left is right
    if isinstance(left, dict) and isinstance(right, dict):
        return left.keys() == right.keys() and all(same_value(left[key], right[key]) for key in left)
    if isinstance(left, list) and isinstance(right, list):
        return len(left) == len(right) and all(map(same_value, left, right))
    return left == right


def _squad_words(text: str) -> list[str]:
    return _ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split()


def _words(text: str) -> list[str]:
    return re.findall(r"\w+", text.lower())


def _f1(common: int, given: int, wanted: int) -> float:
    return 2 * common / (given + wanted)
