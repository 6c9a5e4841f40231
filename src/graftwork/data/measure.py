"""Rows counted in the base model's own tokens."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

from graftwork.core.errors import InvalidData
from graftwork.core.specs import Method
from graftwork.data.encoding import Encoded, windows
from graftwork.data.findings import Findings
from graftwork.data.lessons import answers
from graftwork.data.rendering import Renderer
from graftwork.data.report import PreviewRow, Size, UsableRow
from graftwork.data.rows import Row, dump

PREVIEW_ROWS = 3


class Counter:
    """Adds up encoded rows."""

    def __init__(self, max_length: int | None) -> None:
        self.max_length = max_length
        self.lengths: list[int] = []
        self.tokens = self.labelled = self.over = 0

    def add(self, encoded: Encoded) -> tuple[int, int]:
        """Count one row, encoded uncut; gives its labelled tokens before and after the cut."""
        kept = sum(encoded.labels[1 : self.max_length])
        over = self.max_length is not None and encoded.length > self.max_length
        self.lengths.append(encoded.length)
        self.tokens += min(encoded.length, self.max_length) if self.max_length is not None else encoded.length
        self.labelled += kept
        self.over += over
        return encoded.labelled, kept

    def size(self) -> Size:
        """The sums."""
        return Size(
            rows=len(self.lengths),
            tokens=self.tokens,
            labelled=self.labelled,
            longest=max(self.lengths, default=0),
            total=sum(self.lengths),
            over_length=self.over,
        )


def measure(
    rows: Iterable[Row], renderer: Renderer, max_length: int | None = None, *, method: Method = "sft"
) -> Size:
    """Sizes of canonical rows, for example of a split. A preference pair counts as one row, with the tokens
    of both its answers; ``longest`` is the longer one's. What ``method`` makes of a row is counted: KTO two
    examples of a pair, continued pre-training one of each window of a long text.

    Raises:
        InvalidData: a row that cannot be rendered; ``validate`` would have refused it.
    """
    counter, count = Counter(max_length), 0

    def lessons() -> Iterator[Row]:
        nonlocal count
        for row in rows:
            made = answers(row)
            count += len(made) if method == "kto" else 1
            yield from made

    for encoded in renderer.encode_all(lessons()):
        if isinstance(encoded, InvalidData):
            raise encoded
        pieces = windows(encoded, max_length) if method == "cpt" and max_length else [encoded]
        count += len(pieces) - 1
        for piece in pieces:
            counter.add(piece)
    return replace(counter.size(), rows=count)


def count_rows(
    rows: Sequence[UsableRow], renderer: Renderer, counter: Counter, notes: Findings
) -> tuple[PreviewRow, ...]:
    """Count rows, note what the base model makes of them, and preview the first few."""
    preview: list[PreviewRow] = []
    control = _control_pattern(renderer)
    for item, encoded in zip(rows, renderer.encode_all(item.row for item in rows), strict=True):
        if isinstance(encoded, InvalidData):
            notes.add(encoded.code, encoded.message, line=item.line, field=encoded.param)
            continue
        labelled, kept = counter.add(encoded)
        _note_length(item.line, encoded, labelled, kept, counter.max_length, notes)
        found = control.search(dump(item.row).decode()) if control is not None else None
        if found is not None:
            notes.add("control_token", f"The text holds {found[0]}, a control token.", line=item.line)
        if len(preview) < PREVIEW_ROWS:
            preview.append(PreviewRow(item.line, tuple(renderer.pieces(encoded))))
    return tuple(preview)


def _note_length(
    line: int, encoded: Encoded, labelled: int, kept: int, limit: int | None, notes: Findings
) -> None:
    if labelled == 0:
        notes.add("no_labelled_tokens", "No token carries loss.", line=line)
    elif limit is not None and encoded.length > limit:
        if kept == 0:
            message = f"The row has {encoded.length} tokens; the answer begins behind the first {limit}."
            notes.add("answer_cut_off", message, line=line)
        else:
            message = (
                f"The row has {encoded.length} tokens; the end is cut off at {limit}, "
                f"{kept} of {labelled} labelled tokens remain."
            )
            notes.add("over_length", message, line=line)


def _control_pattern(renderer: Renderer) -> re.Pattern[str] | None:
    # control tokens are plain ASCII or symbols, which canonical JSON writes as they are
    texts = [text for text in renderer.tokenizer.control_tokens() if len(text) > 2 and '"' not in text]
    return re.compile("|".join(map(re.escape, texts))) if texts else None
