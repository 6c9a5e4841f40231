"""The rules for what preferences taught: held-out pairs and feedback, new weights against base and live."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from statistics import NormalDist

from graftwork.core.states import Verdict
from graftwork.evals.results import Json, RowResult, Scores
from graftwork.evals.rules import Comparison, Finding
from graftwork.evals.statistics import mcnemar


@dataclass(frozen=True, slots=True)
class PreferenceAboveBase:
    """Chosen answers have gained on rejected ones against the base model, beyond chance.

    A pair is won when the new weights favour its chosen answer by more than the base does (DPO's own measure
    of accuracy); under the null it is a fair coin (exact sign test). Of feedback, the log-likelihood that
    wanted answers gained is compared with what unwanted ones did (Mann and Whitney 1947, normal
    approximation).
    """

    significance: float = 0.05
    guard = False

    def check(self, comparison: Comparison) -> Finding:
        """See ``Rule.check``."""
        new, base = comparison.new, comparison.base
        if any(row.wanted is not None for row in new.rows):
            return self._feedback(gains(new, base), [bool(row.wanted) for row in new.rows])
        margins = pair_margins(new, base)
        if not margins:
            return Finding(Verdict.INCONCLUSIVE, "There are no held-out pairs to measure preferences on.")
        won, lost = sum(margin > 0 for margin in margins), sum(margin < 0 for margin in margins)
        found = mcnemar([True] * lost + [False] * won, [False] * lost + [True] * won)
        share = f"the chosen answer gained on the rejected one in {won} of {len(margins)} pairs"
        numbers: Json = {"won": won, "lost": lost, "pairs": len(margins), "p": found.p_worse}
        return self._say(found.p_worse, won > lost, share, numbers)

    def _feedback(self, gained: Sequence[float], wanted: Sequence[bool]) -> Finding:
        good = [gain for gain, want in zip(gained, wanted, strict=True) if want]
        bad = [gain for gain, want in zip(gained, wanted, strict=True) if not want]
        if not good or not bad:
            reason = "The held-out answers are all wanted, or all unwanted: there is nothing to compare."
            return Finding(Verdict.INCONCLUSIVE, reason)
        wins = sum((a > b) + 0.5 * (a == b) for a in good for b in bad)
        share = wins / (len(good) * len(bad))
        spread = math.sqrt(len(good) * len(bad) * (len(good) + len(bad) + 1) / 12)
        p = 1 - NormalDist().cdf((wins - len(good) * len(bad) / 2) / spread)
        words = f"a wanted answer gained more than an unwanted one in {share:.0%} of the comparisons"
        numbers: Json = {"share": share, "wanted": len(good), "unwanted": len(bad), "p": p}
        return self._say(p, share > 0.5, words, numbers)

    def _say(self, p: float, better: bool, words: str, numbers: Json) -> Finding:
        sentence = words[0].upper() + words[1:]
        if p < self.significance:
            return Finding(Verdict.PASS, f"{sentence}, beyond chance.", numbers)
        if better:
            return Finding(Verdict.INCONCLUSIVE, f"{sentence}, which may be chance.", numbers)
        return Finding(Verdict.FAIL, f"{sentence}: no more than chance.", numbers)


@dataclass(frozen=True, slots=True)
class PreferenceNotWorseThanLive:
    """Not significantly fewer held-out pairs are ranked right than by the live version."""

    significance: float = 0.05
    guard = False

    def check(self, comparison: Comparison) -> Finding | None:
        """See ``Rule.check``."""
        live = comparison.live
        if live is None or not any(row.is_pair for row in comparison.new.rows):
            return None
        ours, theirs = ([bool(row.prefers) for row in scores.rows] for scores in (comparison.new, live))
        found = mcnemar(ours, theirs)
        changes = f"{found.lost} pairs that the live version ranks right are lost, {found.gained} are gained"
        if found.p_worse < self.significance:
            reason = f"Preference accuracy is significantly below the live version's: {changes}."
            return Finding(Verdict.FAIL, reason, asdict(found))
        reason = f"Preference accuracy is not significantly below the live version's: {changes}."
        return Finding(Verdict.PASS, reason, asdict(found))


def gains(new: Scores, base: Scores) -> list[float]:
    """Nats of log-likelihood that each row's answer gained."""
    return [_loss(b) - _loss(a) for a, b in zip(new.rows, base.rows, strict=True)]


def pair_margins(new: Scores, base: Scores) -> list[float]:
    """By how many nats more than the base the new weights favour the chosen answer, of each pair."""
    return [
        (_loss(b) - _loss(a)) - (_rejected(b) - _rejected(a))
        for a, b in zip(new.rows, base.rows, strict=True)
        if a.is_pair
    ]


def _loss(row: RowResult) -> float:
    return row.loss or 0.0


def _rejected(row: RowResult) -> float:
    return row.rejected_loss or 0.0
