"""A run's data files as tokens and labels, checked once more before anything is spent on them."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from graftwork.core.errors import InvalidData, PlatformError
from graftwork.core.specs import DataRef, Method, RunSpec
from graftwork.data.encoding import Encoded, windows
from graftwork.data.lessons import answers
from graftwork.data.rendering import Renderer
from graftwork.data.rows import Row, read_canonical
from graftwork.runs.reader import RunReader

CHECKED = 20
"""Rows whose labels are read back as text."""


@dataclass(frozen=True, slots=True)
class Dataset:
    """Examples that carry labels: rows, or pairs of rows.

    Attributes:
        rows: as tokens and labels; an example's rows stand together.
        cut: rows that were longer than the limit and lost their end.
        skipped: examples left out because no label was left in them, or in one of a pair.
        doubtful: of the first rows, those whose answers are not, word for word, what carries loss. A chat
            template may rewrite answers; more likely it is broken.
        per_example: rows that make one example: 2 for preference pairs (chosen, rejected).
        wanted: for KTO, whether each row's answer was wanted; else empty.
    """

    rows: list[Encoded]
    cut: int
    skipped: int
    doubtful: int
    per_example: int = 1
    wanted: tuple[bool, ...] = ()

    @property
    def lengths(self) -> list[int]:
        """Tokens of each example."""
        return [sum(len(row.tokens) for row in self.example(at)) for at in range(self.examples)]

    @property
    def examples(self) -> int:
        """Number of examples."""
        return len(self.rows) // self.per_example

    def example(self, at: int) -> list[Encoded]:
        """The rows of one example."""
        return self.rows[at * self.per_example : (at + 1) * self.per_example]

    @property
    def labelled(self) -> int:
        """Labelled tokens of all rows."""
        return sum(row.labelled for row in self.rows)


def load_datasets(reader: RunReader, spec: RunSpec, renderer: Renderer) -> tuple[Dataset, Dataset | None]:
    """A run's training rows, and its held-out ones where it has a file of them: see ``load_dataset``."""
    longest, method = spec.schedule.max_length, spec.method
    train = load_dataset(reader, spec.train, renderer, longest, "training_file", method)
    if spec.valid is None:
        return train, None
    return train, load_dataset(reader, spec.valid, renderer, longest, "validation_file", method)


def load_dataset(
    reader: RunReader,
    reference: DataRef,
    renderer: Renderer,
    max_length: int,
    param: str,
    method: Method = "sft",
) -> Dataset:
    """Read, verify and encode one data file for a method; ``param`` names it in errors.

    A preference row is a pair of rows for DPO and ORPO, and two examples for KTO. For continued pre-training
    a text longer than ``max_length`` is cut into windows; else rows lose their end.

    Raises:
        PlatformError: ``run_folder_corrupt``, the bytes are not those of the specification.
        InvalidData: rows that cannot be rendered (all are listed), or ``no_labelled_tokens``.
    """
    source = read_canonical(_verified(reader, reference))
    lessons, refused = _lessons(source, method)
    limit = None if method == "cpt" else max_length
    encoded = list(renderer.encode_all((lesson for _, lesson in lessons), limit))
    refused += [
        (line, item)
        for (line, _), item in zip(lessons, encoded, strict=True)
        if isinstance(item, InvalidData)
    ]
    if refused:
        refused.sort(key=lambda pair: pair[0])
        raise _unreadable(refused, param)
    found = [item for item in encoded if isinstance(item, Encoded)]
    checked = zip(lessons[:CHECKED], found, strict=False)
    doubtful = sum(not _learns_its_answers(lesson, item, renderer) for (_, lesson), item in checked)
    if method == "cpt":
        found = [piece for item in found for piece in windows(item, max_length)]
    size = 2 if method in ("dpo", "orpo") else 1
    examples = [found[at : at + size] for at in range(0, len(found), size)]
    kept = [at for at, example in enumerate(examples) if all(row.labelled for row in example)]
    if not kept:
        raise InvalidData(
            f"No token of the {len(found)} rows carries loss within {max_length} tokens.",
            fix="Give rows an assistant message with words and weight 1, or a larger max_length.",
            code="no_labelled_tokens",
            param=param,
        )
    wanted = _wanted(source) if method == "kto" else ()
    return Dataset(
        rows=[row for at in kept for row in examples[at]],
        cut=sum(row.length > len(row.tokens) for at in kept for row in examples[at]),
        skipped=len(examples) - len(kept),
        doubtful=doubtful,
        per_example=size,
        wanted=tuple(wanted[at] for at in kept) if wanted else (),
    )


def _verified(reader: RunReader, reference: DataRef) -> bytes:
    data = reader.file(reference.path)
    if hashlib.sha256(data).hexdigest() != reference.sha256:
        raise PlatformError(
            f"{reference.path} in the run folder is not the data set of the specification.",
            fix="Start the job again.",
            code="run_folder_corrupt",
        )
    return data


def _lessons(
    source: list[Row], method: Method
) -> tuple[list[tuple[int, Row]], list[tuple[int, InvalidData]]]:
    """What is rendered of each row, and the rows that the method does not learn from, with their numbers."""
    found: list[tuple[int, Row]] = []
    refused: list[tuple[int, InvalidData]] = []
    for line, row in enumerate(source, 1):
        try:
            found += [(line, lesson) for lesson in answers(row, method)]
        except InvalidData as error:
            refused.append((line, error))
    return found, refused


def _wanted(source: list[Row]) -> list[bool]:
    """Whether each answer of the rows was wanted, in the order of ``answers``."""
    return [label for row in source for label in ([row["label"]] if "label" in row else [True, False])]


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
