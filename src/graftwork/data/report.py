"""What is known of a data file after it was checked: the answer of ``validate``."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from typing import Any

from graftwork.data.containers import Container
from graftwork.data.findings import Finding, Unit
from graftwork.data.rows import Row
from graftwork.data.shapes import NAMES, Shape


@dataclass(frozen=True, slots=True)
class Format:
    """How a file is written; None where it could not be told."""

    container: Container | None
    shape: Shape | None

    def __str__(self) -> str:
        return f"{NAMES[self.shape] if self.shape else 'unknown'} in {self.container or 'unknown'}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """Sizes of rows as the base model reads them.

    ``tokens`` and ``labelled`` count after the cut at the length limit, ``longest`` and ``total`` before it.
    """

    rows: int
    tokens: int
    labelled: int
    longest: int
    total: int
    over_length: int


@dataclass(frozen=True, slots=True)
class Bucket:
    """Rows of at most ``upto`` tokens, and more than the bucket before."""

    upto: int
    rows: int


@dataclass(frozen=True, slots=True)
class PreviewRow:
    """A row's text, cut where the loss begins and ends."""

    line: int
    pieces: tuple[tuple[str, bool], ...]


@dataclass(frozen=True, slots=True)
class Leak:
    """A validation row that stands in the training file: exactly, or but for case and white space."""

    valid_line: int
    train_line: int
    exact: bool


@dataclass(frozen=True, slots=True)
class UsableRow:
    """A canonical row with its number in the file."""

    line: int
    row: Row


@dataclass(frozen=True, kw_only=True)
class Report:
    """The findings of a file, and its sizes.

    Attributes:
        format: container and shape.
        rows: rows in the file, usable or not.
        findings: every problem, by line.
        size: tokens, counted with the base model's tokenizer and template; None without a renderer.
        max_length: the length limit of the count; None is none.
        lengths: histogram over all usable rows, buckets of powers of two.
        duplicates: rows that stood before in the same file.
        leaks: filled by ``check_pair`` for a validation file.
        preview: the first rows with what carries loss.
        usable: canonical rows; not part of the JSON.
    """

    format: Format
    rows: int
    findings: tuple[Finding, ...]
    size: Size | None = None
    max_length: int | None = None
    lengths: tuple[Bucket, ...] = ()
    duplicates: int = 0
    leaks: tuple[Leak, ...] = ()
    preview: tuple[PreviewRow, ...] = ()
    unit: Unit = "line"
    usable: tuple[UsableRow, ...] | None = field(default=None, repr=False, compare=False)

    @property
    def ok(self) -> bool:
        """Whether the file may be used: no errors, warnings allowed."""
        return not any(finding.severity == "error" for finding in self.findings)

    @property
    def errors(self) -> tuple[Finding, ...]:
        """The findings that refuse the file."""
        return tuple(finding for finding in self.findings if finding.severity == "error")

    @property
    def warnings(self) -> tuple[Finding, ...]:
        """The findings that do not."""
        return tuple(finding for finding in self.findings if finding.severity == "warning")

    def rows_canonical(self) -> list[Row]:
        """The usable rows in canonical form, in the file's order: all rows, when ``ok``.

        Raises:
            ValueError: the report was read from JSON, which holds no rows.
        """
        if self.usable is None:
            raise ValueError("a report read from JSON holds no rows; validate the file again")
        return [item.row for item in self.usable]

    def to_json(self) -> dict[str, Any]:
        """Plain values, without the rows; ``from_json`` reads them."""
        return {
            "format": asdict(self.format),
            "rows": self.rows,
            "ok": self.ok,
            "findings": [finding.to_json() for finding in self.findings],
            "size": asdict(self.size) if self.size else None,
            "max_length": self.max_length,
            "lengths": [asdict(bucket) for bucket in self.lengths],
            "duplicates": self.duplicates,
            "leaks": [asdict(leak) for leak in self.leaks],
            "preview": [
                {"line": row.line, "pieces": [list(piece) for piece in row.pieces]} for row in self.preview
            ],
            "unit": self.unit,
        }

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Report:
        """The report ``to_json`` wrote, without its rows."""
        return cls(
            format=Format(**value["format"]),
            rows=value["rows"],
            findings=tuple(Finding(**finding) for finding in value["findings"]),
            size=Size(**value["size"]) if value["size"] else None,
            max_length=value["max_length"],
            lengths=tuple(Bucket(**bucket) for bucket in value["lengths"]),
            duplicates=value["duplicates"],
            leaks=tuple(Leak(**leak) for leak in value["leaks"]),
            preview=tuple(
                PreviewRow(row["line"], tuple((text, loss) for text, loss in row["pieces"]))
                for row in value["preview"]
            ),
            unit=value["unit"],
        )


def histogram(lengths: Iterable[int]) -> tuple[Bucket, ...]:
    """Lengths in buckets of powers of two, from the smallest to the largest, empty ones between them
    included."""
    counts: dict[int, int] = {}
    for length in lengths:
        bits = max(length - 1, 0).bit_length()
        counts[bits] = counts.get(bits, 0) + 1
    if not counts:
        return ()
    return tuple(Bucket(1 << bits, counts.get(bits, 0)) for bits in range(min(counts), max(counts) + 1))
