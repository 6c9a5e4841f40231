"""A run's data files as tokens and labels, checked once more before anything is spent on them."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from graftwork.core.errors import InvalidData, PlatformError
from graftwork.core.specs import DataRef
from graftwork.data.rendering import Encoded, Renderer
from graftwork.data.rows import Row, read_canonical
from graftwork.runs.reader import RunReader

CHECKED = 20
"""Rows whose labels are read back as text."""


@dataclass(frozen=True, slots=True)
class Dataset:
    """Rows that carry at least one label each.

    Attributes:
        rows: as tokens and labels.
        cut: rows that were longer than the limit and lost their end.
        skipped: rows left out because no label was left in them.
        doubtful: of the first rows, those whose answers are not, word for word, what carries loss. A chat
            template may rewrite answers; more likely it is broken.
    """

    rows: list[Encoded]
    cut: int
    skipped: int
    doubtful: int

    @property
    def lengths(self) -> list[int]:
        """Tokens of each row."""
        return [len(row.tokens) for row in self.rows]

    @property
    def labelled(self) -> int:
        """Labelled tokens of all rows."""
        return sum(row.labelled for row in self.rows)


def load_dataset(
    reader: RunReader, reference: DataRef, renderer: Renderer, max_length: int, param: str
) -> Dataset:
    """Read, verify and encode one data file; ``param`` names it in errors.

    Raises:
        PlatformError: ``run_folder_corrupt``, the bytes are not those of the specification.
        InvalidData: rows that cannot be rendered (all are listed), or ``no_labelled_tokens``.
    """
    data = reader.file(reference.path)
    if hashlib.sha256(data).hexdigest() != reference.sha256:
        raise PlatformError(
            f"{reference.path} in the run folder is not the data set of the specification.",
            fix="Start the job again.",
            code="run_folder_corrupt",
        )
    source = read_canonical(data)
    encoded = list(renderer.encode_all(source, max_length))
    refused = [(line, item) for line, item in enumerate(encoded, 1) if isinstance(item, InvalidData)]
    if refused:
        raise _unreadable(refused, param)
    found = [item for item in encoded if isinstance(item, Encoded)]
    rows = [row for row in found if row.labelled]
    if not rows:
        raise InvalidData(
            f"No token of the {len(found)} rows carries loss within {max_length} tokens.",
            fix="Give rows an assistant message with words and weight 1, or a larger max_length.",
            code="no_labelled_tokens",
            param=param,
        )
    cut = sum(row.length > len(row.tokens) for row in rows)
    checked = zip(source[:CHECKED], found, strict=False)
    doubtful = sum(not _learns_its_answers(row, item, renderer) for row, item in checked)
    return Dataset(rows, cut, len(found) - len(rows), doubtful)


def _learns_its_answers(row: Row, encoded: Encoded, renderer: Renderer) -> bool:
    """Whether what carries loss, read back as text, holds each answer of weight 1 and no other message.

    True also where that cannot be told: rows that were cut, and rows that are not chats.
    """
    if "messages" not in row or encoded.length > len(encoded.tokens):
        return True
    learnt = "".join(text for text, on in renderer.pieces(encoded) if on)
    rest = "".join(text for text, on in renderer.pieces(encoded) if not on)
    for message in row["messages"]:
        words = message.get("content")
        if not isinstance(words, str) or not words.strip():
            continue
        counts = message["role"] == "assistant" and message.get("weight") != 0
        if words.strip() not in (learnt if counts else rest):
            return False
    return True


def _unreadable(refused: list[tuple[int, InvalidData]], param: str) -> InvalidData:
    line, first = refused[0]
    findings = [
        {"line": at, "field": error.param, "code": error.code, "message": error.message, "fix": error.fix}
        for at, error in refused
    ]
    return InvalidData(
        f"{len(refused)} rows cannot be rendered; the first is row {line}: {first.message}",
        fix=first.fix,
        code=first.code,
        param=param,
        details={"findings": findings},
    )
