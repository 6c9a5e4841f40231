"""The gate: named, versioned rules that new weights must pass before an alias may move to them.

Three verdicts. *Inconclusive never promotes*: an evaluation that crashed, a number that is not finite, too
few rows, a missing measure or a single error closes the gate, whatever the other rules say.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from graftwork.core.states import Verdict
from graftwork.evals.preferences import PreferenceAboveBase, PreferenceNotWorseThanLive
from graftwork.evals.results import Json, Scores
from graftwork.evals.rules import (
    Comparison,
    Complete,
    EnoughRows,
    ExactMatchNotBelowBase,
    ExactMatchNotWorseThanLive,
    Finding,
    LossBetterThanBase,
    LossNotWorseThanLive,
    Rule,
)


@dataclass(frozen=True, slots=True)
class GateReport:
    """A verdict with its reasons, and the table for people."""

    name: str
    """Of the gate; with its version this says which rules were asked."""
    version: int
    verdict: Verdict
    reasons: tuple[str, ...]
    """One sentence for each rule that spoke, the decisive ones first."""
    findings: tuple[tuple[str, Finding], ...]
    """By the rule's name, in the gate's order."""
    table: tuple[Json, ...]
    """Rows ``{measure, better, base, live, new}``."""
    rules: tuple[Json, ...]
    """The rules with their parameters."""

    def to_json(self) -> Json:
        """JSON-able; numbers that are not finite are null."""
        findings = [
            {"rule": name, "verdict": f.verdict.value, "reason": f.reason, "numbers": f.numbers}
            for name, f in self.findings
        ]
        return {
            "name": self.name,
            "version": self.version,
            "verdict": self.verdict.value,
            "reasons": list(self.reasons),
            "findings": finite(findings),
            "table": finite(list(self.table)),
            "rules": list(self.rules),
        }


@dataclass(frozen=True, slots=True)
class Gate:
    """A named, versioned set of rules; the version changes whenever a rule or parameter does."""

    name: str
    version: int
    rules: tuple[Rule, ...]

    def decide(self, comparison: Comparison) -> GateReport:
        """The verdict. Pure: the same scores give the same report.

        The worst finding counts. Guards go first: when one of them does not pass, no number can be believed,
        and nothing else is asked.
        """
        findings = self._ask(comparison, guard=True)
        verdict = _worst(findings, (Verdict.INCONCLUSIVE, Verdict.FAIL))
        if verdict is Verdict.PASS:
            asked = self._ask(comparison, guard=False)
            findings += asked
            verdict = _worst(asked, (Verdict.FAIL, Verdict.INCONCLUSIVE))
        ordered = sorted(findings, key=lambda named: named[1].verdict is not verdict)
        return GateReport(
            name=self.name,
            version=self.version,
            verdict=verdict,
            reasons=tuple(finding.reason for _, finding in ordered),
            findings=tuple(findings),
            table=table(comparison),
            rules=tuple({"rule": type(rule).__name__, **asdict(rule)} for rule in self._all),
        )

    @property
    def _all(self) -> tuple[Rule, ...]:
        return (Complete(), *self.rules)  # no gate can be written that believes broken numbers

    def _ask(self, comparison: Comparison, *, guard: bool) -> list[tuple[str, Finding]]:
        asked = [(type(rule).__name__, rule.check(comparison)) for rule in self._all if rule.guard is guard]
        return [(name, finding) for name, finding in asked if finding is not None]


DEFAULT_GATE = Gate(
    name="default",
    version=1,
    rules=(
        EnoughRows(),
        LossBetterThanBase(),
        ExactMatchNotBelowBase(),
        LossNotWorseThanLive(),
        ExactMatchNotWorseThanLive(),
    ),
)


PREFERENCE_GATE = Gate(
    name="preference",
    version=1,
    rules=(EnoughRows(), PreferenceAboveBase(), PreferenceNotWorseThanLive()),
)
"""For what was learnt from preferences: the answers' own losses may rise, as long as the right one wins."""


def decide(new: Scores, base: Scores, live: Scores | None = None, gate: Gate | None = None) -> GateReport:
    """What the gate (``DEFAULT_GATE`` if none is given) says of new weights beside the base and the live."""
    return (gate or DEFAULT_GATE).decide(Comparison(new, base, live))


_BETTER = {"loss": "lower"}


def table(comparison: Comparison) -> tuple[Json, ...]:
    """Each measure that any model has, beside each other; then the counts of rows and errors."""
    by_name = {name: scores.measures() for name, scores in comparison.named()}
    rows: list[Json] = []
    for measure in by_name["new"]:
        values = {name: by_name.get(name, {}).get(measure) for name in ("base", "live", "new")}
        if any(value is not None for value in values.values()):
            rows.append({"measure": measure, "better": _BETTER.get(measure, "higher"), **values})
    for measure, counts in (
        ("rows", {name: len(scores.rows) for name, scores in comparison.named()}),
        ("errors", {name: scores.errors for name, scores in comparison.named()}),
    ):
        beside = {name: counts.get(name) for name in ("base", "live", "new")}
        rows.append({"measure": measure, "better": None, **beside})
    return tuple(rows)


def finite(value: Any) -> Any:
    """The same JSON value with null for every number that is not finite."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    return value


def _worst(findings: Sequence[tuple[str, Finding]], order: tuple[Verdict, ...]) -> Verdict:
    said = {finding.verdict for _, finding in findings}
    if not said:
        return Verdict.INCONCLUSIVE  # where no rule applies, nothing was shown
    return next((verdict for verdict in order if verdict in said), Verdict.PASS)
