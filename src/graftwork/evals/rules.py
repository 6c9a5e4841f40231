"""The rules of gates: each looks at the scores of the new, base and live model, and says one sentence."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Protocol

from graftwork.core.states import Verdict
from graftwork.evals.results import Json, RowResult, Scores
from graftwork.evals.statistics import Discordance, Interval, loss_difference, mcnemar


@dataclass(frozen=True, slots=True)
class Comparison:
    """What a gate looks at; all three on the same rows."""

    new: Scores
    base: Scores
    live: Scores | None = None
    """The version that serves now; None for a first version."""

    def named(self) -> list[tuple[str, Scores]]:
        """The scores there are, with what to call them."""
        there = [("new", self.new), ("base", self.base), ("live", self.live)]
        return [(name, scores) for name, scores in there if scores is not None]


@dataclass(frozen=True, slots=True)
class Finding:
    """What one rule says."""

    verdict: Verdict
    reason: str
    """One sentence."""
    numbers: Json | None = None
    """The statistics behind it."""


class Rule(Protocol):
    """One condition. ``guard`` rules say whether the numbers can be believed, and go first."""

    guard: bool
    __dataclass_fields__: ClassVar[dict[str, Any]]
    """Rules are dataclasses; their fields are the parameters that a report shows."""

    def check(self, comparison: Comparison) -> Finding | None:
        """The rule's finding, or None where it does not apply. Guards passed before the others are asked."""
        ...


# ---------------------------------------------------------------------------------------------- guards


@dataclass(frozen=True, slots=True)
class Complete:
    """Every model was measured on the same rows, in full, without an error."""

    guard = True

    def check(self, comparison: Comparison) -> Finding:
        """See ``Rule.check``."""
        for name, scores in comparison.named():
            trouble = _trouble(scores) or _mismatch(scores.rows, comparison.new.rows)
            if trouble:
                return Finding(Verdict.INCONCLUSIVE, f"The evaluation of the {name} model {trouble}.")
        return Finding(Verdict.PASS, "Every model was measured on the same rows without an error.")


@dataclass(frozen=True, slots=True)
class EnoughRows:
    """There are enough held-out rows to say anything."""

    minimum: int = 10
    guard = True

    def check(self, comparison: Comparison) -> Finding:
        """See ``Rule.check``."""
        rows = sum(row.tokens > 0 for row in comparison.new.rows)
        if rows < self.minimum:
            reason = f"There are {rows} held-out rows to measure, and {self.minimum} are needed."
            return Finding(Verdict.INCONCLUSIVE, reason, {"rows": rows})
        return Finding(Verdict.PASS, f"There are {rows} held-out rows, enough to tell.", {"rows": rows})


# ----------------------------------------------------------------------------------------------- rules


@dataclass(frozen=True, slots=True)
class LossBetterThanBase:
    """The held-out loss is lower than the base model's, beyond chance."""

    confidence: float = 0.95
    guard = False

    def check(self, comparison: Comparison) -> Finding:
        """See ``Rule.check``."""
        difference = _loss_difference(comparison.new, comparison.base, self.confidence)
        if difference is None:
            return Finding(Verdict.INCONCLUSIVE, "There is too little to compare the losses on.")
        return Finding(*self._say(difference), asdict(difference))

    @staticmethod
    def _say(difference: Interval) -> tuple[Verdict, str]:
        gap = f"{abs(difference.estimate):.3f} nats a token"
        if difference.high < 0:
            return Verdict.PASS, f"Held-out loss is {gap} below the base model's, beyond chance."
        if difference.estimate < 0:
            reason = f"Held-out loss is {gap} below the base model's, which may be chance on so few rows."
            return Verdict.INCONCLUSIVE, reason
        return Verdict.FAIL, f"Held-out loss is not below the base model's (it is {gap} above)."


@dataclass(frozen=True, slots=True)
class ExactMatchNotBelowBase:
    """At least as many answers are exactly right as the base model's."""

    guard = False

    def check(self, comparison: Comparison) -> Finding | None:
        """See ``Rule.check``."""
        pairs = _exact_pairs(comparison.new, comparison.base)
        if not pairs:
            return None
        new, base = sum(a for a, _ in pairs), sum(b for _, b in pairs)
        numbers: Json = {"new": new, "base": base, "rows": len(pairs)}
        counts = f"{new} of {len(pairs)} answers are exactly right, the base model's {base}."
        return Finding(Verdict.PASS if new >= base else Verdict.FAIL, counts, numbers)


@dataclass(frozen=True, slots=True)
class LossNotWorseThanLive:
    """The held-out loss is not higher than the live version's beyond chance."""

    confidence: float = 0.95
    guard = False

    def check(self, comparison: Comparison) -> Finding | None:
        """See ``Rule.check``."""
        if comparison.live is None:
            return None
        difference = _loss_difference(comparison.new, comparison.live, self.confidence)
        if difference is None:
            return Finding(Verdict.INCONCLUSIVE, "There is too little to compare the losses on.")
        numbers = asdict(difference)
        if difference.low > 0:
            reason = f"Held-out loss is {difference.estimate:.3f} nats a token above the live version's."
            return Finding(Verdict.FAIL, reason, numbers)
        return Finding(Verdict.PASS, "Held-out loss is not significantly above the live version's.", numbers)


@dataclass(frozen=True, slots=True)
class ExactMatchNotWorseThanLive:
    """Not significantly fewer answers are exactly right than the live version's."""

    significance: float = 0.05
    guard = False

    def check(self, comparison: Comparison) -> Finding | None:
        """See ``Rule.check``."""
        if comparison.live is None:
            return None
        pairs = _exact_pairs(comparison.new, comparison.live)
        if not pairs:
            return None
        found = mcnemar([a for a, _ in pairs], [b for _, b in pairs])
        return Finding(*self._say(found), asdict(found))

    def _say(self, found: Discordance) -> tuple[Verdict, str]:
        changes = f"{found.lost} answers that the live version has right are lost, {found.gained} are gained"
        if found.p_worse < self.significance:
            return Verdict.FAIL, f"Exact match is significantly below the live version's: {changes}."
        return Verdict.PASS, f"Exact match is not significantly below the live version's: {changes}."


def _trouble(scores: Scores) -> str:
    """Why these scores cannot be believed, as the end of a sentence; or nothing."""
    if scores.error is not None:
        return f"failed ({scores.error})"
    if scores.errors:
        first = next(row.error for row in scores.rows if row.error)
        return f"has {scores.errors} errors in {len(scores.rows)} rows (first: {first})"
    for row in scores.rows:
        if row.loss is None or (row.reference is not None and row.exact is None):
            return "lacks a measure on some row"
        if row.is_pair and (row.rejected_loss is None or not math.isfinite(row.rejected_loss)):
            return "lacks the rejected answer's loss on some row"
        if not math.isfinite(row.loss) or row.tokens < 0:
            return "has a loss that is not a finite number"
    return "" if scores.rows else "has no rows"


def _mismatch(rows: Sequence[RowResult], wanted: Sequence[RowResult]) -> str:
    """Whether two models saw other rows, tokens or references."""

    def identity(row: RowResult) -> tuple[str, int, str | None, int]:
        return row.row, row.tokens, row.reference, row.rejected_tokens

    return "" if list(map(identity, rows)) == list(map(identity, wanted)) else "is not on the same rows"


def _loss_difference(new: Scores, old: Scores, confidence: float) -> Interval | None:
    measured = [(a.loss or 0.0, b.loss or 0.0, a.tokens) for a, b in zip(new.rows, old.rows, strict=True)]
    ours, theirs, tokens = zip(*measured, strict=True)
    if len(measured) < 2 or sum(tokens) == 0:
        return None
    return loss_difference(ours, theirs, tokens, confidence=confidence)


def _exact_pairs(new: Scores, old: Scores) -> list[tuple[bool, bool]]:
    pairs = [(a.exact, b.exact) for a, b in zip(new.rows, old.rows, strict=True)]
    return [(a, b) for a, b in pairs if a is not None and b is not None]
