"""What synthetic rows are made from: passages of documents, or rows that show what is wanted."""

from __future__ import annotations

import hashlib
import random
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from graftwork.core.errors import InvalidRequest
from graftwork.data.report import UsableRow
from graftwork.data.rows import Message, fingerprint
from graftwork.data.stats import answer_of

TEXTS = (".md", ".markdown", ".txt", ".rst")
PASSAGE = 2400
"""Characters of a passage, about: one request is made of each."""
SHOWN = 4
"""Seed rows shown in a request."""


@dataclass(frozen=True, slots=True)
class Item:
    """One request for rows: what they are to be made from, and where that came from.

    Attributes:
        id: by content, so that an interrupted run finds its finished items again.
        passage: text to be asked about; empty for seeds.
        examples: (question, answer) pairs that show what is wanted.
        count: rows asked for.
        origin: kept aside as the rows' provenance.
    """

    id: str
    passage: str
    examples: tuple[tuple[str, str], ...]
    count: int
    origin: dict[str, Any] = field(hash=False)


def from_documents(paths: Sequence[Path], count: int, size: int = PASSAGE) -> list[Item]:
    """An item for each passage of the documents; folders are searched for text and markdown.

    Raises:
        InvalidRequest: a path is not there, is no UTF-8 text, or nothing has any text.
    """
    items: list[Item] = []
    for path in _files(paths):
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError as error:
            raise InvalidRequest(
                f"{path} is not UTF-8 text.", fix="Convert it, or leave it out.", code="not_text"
            ) from error
        for line, passage in passages(text, size):
            key = _digest(str(count), passage)
            items.append(Item(key, passage, (), count, {"document": str(path), "line": line}))
    found = {item.id: item for item in reversed(items)}  # the first of equal passages
    if not found:
        raise InvalidRequest(
            "The documents hold no text.", fix="Name text or markdown files.", code="empty_file"
        )
    return [item for item in items if found[item.id] is item]


def from_seeds(rows: Sequence[UsableRow], total: int, batch: int, seed: int, name: str) -> list[Item]:
    """Items that each show some of the rows and ask for others like them, ``total`` together.

    Raises:
        InvalidRequest: no row has a question and an answer in words.
    """
    pairs = [(item.line, pair) for item in rows if (pair := _pair(item.row)) is not None]
    if not pairs:
        raise InvalidRequest(
            "No seed row has a question and an answer in words.",
            fix="Give chats with one question, or prompt/completion rows.",
            code="no_seeds",
        )
    items: list[Item] = []
    while sum(item.count for item in items) < total:
        number = len(items)
        draw = random.Random(f"{seed}:{number}")
        shown = draw.sample(pairs, min(SHOWN, len(pairs)))
        count = min(batch, total - sum(item.count for item in items))
        key = _digest(str(count), str(number), *(text for _, pair in shown for text in pair))
        origin = {"seeds": name, "lines": [line for line, _ in shown]}
        items.append(Item(key, "", tuple(pair for _, pair in shown), count, origin))
    return items


def system_of(rows: Sequence[UsableRow]) -> str | None:
    """The system message all rows share; None when they do not."""
    found = {_system(item.row.get("messages") or []) for item in rows}
    return found.pop() if len(found) == 1 else None


def passages(text: str, size: int = PASSAGE) -> Iterator[tuple[int, str]]:
    """Passages of about ``size`` characters with the line each begins at.

    A passage ends before a heading, or between paragraphs where it would grow too long; a paragraph that is
    too long by itself is cut between sentences. A heading begins its passage and is repeated in the next ones
    of its section.
    """
    heading, part, start, line = "", "", 1, 1
    for block in re.split(r"(\n\s*\n)", text):
        here = block.strip()
        if here:
            if re.match(r"#{1,6} ", here):
                if part.strip() and part.strip() != heading:
                    yield start, part.strip()
                heading, part, start = here.split("\n", 1)[0], "", line
            for piece in _pieces(here, size):
                if part and part.strip() != heading and len(part) + len(piece) > size:
                    yield start, part.strip()
                    part, start = (f"{heading}\n\n" if heading else ""), line
                part = f"{part}{piece}\n\n"
        line += block.count("\n")
    if part.strip() and part.strip() != heading:
        yield start, part.strip()


def _pieces(text: str, size: int) -> Iterator[str]:
    while len(text) > size:
        cut = max(text.rfind(mark, size // 2, size) for mark in (". ", "! ", "? ", "\n", " "))
        cut = cut + 1 if cut > 0 else size
        yield text[:cut].strip()
        text = text[cut:].strip()
    if text:
        yield text


def _files(paths: Sequence[Path]) -> Iterator[Path]:
    for path in paths:
        if path.is_dir():
            yield from sorted(file for file in path.rglob("*") if file.suffix.lower() in TEXTS)
        elif path.is_file():
            yield path
        else:
            raise InvalidRequest(
                f"There is no document {str(path)!r}.", fix="Mend the path.", code="no_such_file"
            )


def _pair(row: dict[str, Any]) -> tuple[str, str] | None:
    said = answer_of(row)
    if said is None:
        return None
    if "prompt" in row:
        return row["prompt"], said
    asked = [message for message in row.get("messages", []) if message["role"] == "user"]
    return (str(asked[-1].get("content") or ""), said) if len(asked) == 1 else None


def _system(messages: list[Message]) -> str | None:
    return str(messages[0].get("content")) if messages and messages[0]["role"] == "system" else None


def _digest(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:20]


def key_of(row: dict[str, Any]) -> str:
    """By which a row's score is found again."""
    return fingerprint(row)[:20]
