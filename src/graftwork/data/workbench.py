"""The helpers on whole files: bytes in, canonical JSON lines and a report out. CLI and API call the same.

Every file is validated first; one with errors is refused with all of its findings, so that no helper works on
half of what it was given.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from graftwork.core.errors import InvalidData, InvalidRequest
from graftwork.data.dedup import dedup
from graftwork.data.diff import diff
from graftwork.data.divide import divide
from graftwork.data.findings import Finding
from graftwork.data.mix import Source, mix
from graftwork.data.near import THRESHOLD
from graftwork.data.rendering import Renderer
from graftwork.data.report import Report
from graftwork.data.rows import canonical
from graftwork.data.stats import stats
from graftwork.data.validation import validate

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Named:
    """A file's bytes, and its name for messages and as a hint at its container."""

    name: str
    content: bytes


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a helper made: files by part (``train``, ``valid``, …; ``rows`` if there is one), and a report."""

    files: dict[str, bytes]
    report: dict[str, Any]


def checked(files: Sequence[Named]) -> list[Report]:
    """The reports of files that hold rows without errors.

    Raises:
        InvalidData: with every finding of every file in ``details["findings"]``, each with its ``file``.
    """
    reports = [validate(file.content, filename=file.name, purpose="any") for file in files]
    refused: list[tuple[Named, Finding]] = [
        (file, finding)
        for file, report in zip(files, reports, strict=True)
        for finding in report.findings
        if not report.ok
    ]
    if refused:
        errors = sum(finding.severity == "error" for _, finding in refused)
        where = "\n".join(f"{file.name}: {finding}" for file, finding in refused[:20])
        raise InvalidData(
            f"{errors} problems; nothing was written.\n{where}",
            fix="Mend them and try again.",
            details={"findings": [{"file": file.name, **finding.to_json()} for file, finding in refused]},
        )
    return reports


def split_file(
    file: Named, shares: Mapping[str, float], seed: int = 0, near: float | None = THRESHOLD
) -> Outcome:
    """Divide a file's rows into parts (see ``divide``); ``train`` gets what the other shares leave.

    Raises:
        InvalidData: the file has errors. InvalidRequest: shares or threshold out of range.
    """
    others = {name: share for name, share in shares.items() if name != "train" and share > 0}
    whole = {"train": 1 - sum(others.values()), **others}
    if not others or whole["train"] <= 0:
        raise InvalidRequest(
            "The held-out shares must be above 0 and leave something to train on.",
            fix="Give shares such as valid 0.1 and test 0.1.",
            code="invalid_value",
            param="valid",
        )
    [report] = checked([file])
    found = _asked(lambda: divide(report.usable or (), whole, seed, threshold=near))
    files = {name: canonical(found.rows(name)) for name in whole}
    return Outcome(files, {**found.to_json(), "seed": seed, "near_threshold": near})


def dedup_file(file: Named, near: float | None = THRESHOLD) -> Outcome:
    """A file without its duplicates (see ``dedup``).

    Raises:
        InvalidData: the file has errors. InvalidRequest: a threshold out of range.
    """
    [report] = checked([file])
    found = _asked(lambda: dedup(report.usable or (), near))
    return Outcome({"rows": canonical(found.rows)}, {**found.to_json(), "near_threshold": near})


def mix_files(files: Sequence[tuple[Named, float]], seed: int = 0, total: int | None = None) -> Outcome:
    """Several files in one, each by its weight (see ``mix``).

    Raises:
        InvalidData: a file has errors. InvalidRequest: weights, kinds or the total do not fit together.
    """
    reports = checked([file for file, _ in files])
    sources = [
        Source(file.name, report.usable or (), weight)
        for (file, weight), report in zip(files, reports, strict=True)
    ]
    found = _asked(lambda: mix(sources, seed, total))
    return Outcome({"rows": canonical(found.rows)}, {**found.to_json(), "seed": seed})


def stats_of(
    file: Named,
    renderer: Renderer | None = None,
    max_length: int | None = None,
    near: float | None = THRESHOLD,
) -> dict[str, Any]:
    """A file in numbers (see ``stats``), and its findings; bad rows are left out and told, not refused.

    Raises:
        InvalidRequest: a threshold out of range.
    """
    report = validate(
        file.content, filename=file.name, renderer=renderer, max_length=max_length, purpose="any"
    )
    numbers = _asked(lambda: stats(report, near))
    return {
        **numbers.to_json(),
        "format": str(report.format),
        "ok": report.ok,
        "problems": [finding.to_json() for finding in report.findings],
    }


def diff_files(before: Named, after: Named, near: float = THRESHOLD) -> dict[str, Any]:
    """What became of the rows of one file in the other (see ``diff``).

    Raises:
        InvalidData: a file has errors. InvalidRequest: a threshold out of range.
    """
    old, new = checked([before, after])
    return _asked(lambda: diff(old.usable or (), new.usable or (), near)).to_json()


def _asked(work: Callable[[], T]) -> T:
    """The result; what the helpers refuse is the caller's request."""
    try:
        return work()
    except ValueError as error:
        raise InvalidRequest(
            f"This cannot be done: {error}.", fix="Mend the values.", code="invalid_value"
        ) from error
