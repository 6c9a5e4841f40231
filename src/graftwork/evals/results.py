"""What an evaluation measured: one record for each held-out row, and the totals over them.

Rows are kept, not only totals: the statistics are paired. Nothing is dropped: a row that could not be
measured stays, with its error.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any, Self

Json = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class RowResult:
    """One held-out row under one model. None means: not measured on this row."""

    row: str
    """sha256 of the canonical row."""
    tokens: int = 0
    """Tokens that carry loss."""
    loss: float | None = None
    """Their summed negative log-likelihood, in nats."""
    prompt: str = ""
    """What was asked, for people."""
    reference: str | None = None
    """The right answer; None where the row has none, or was cut."""
    answer: str | None = None
    exact: bool | None = None
    f1: float | None = None
    rouge_l: float | None = None
    json_valid: bool | None = None
    """None also where the reference is no JSON."""
    json_match: bool | None = None
    rejected_loss: float | None = None
    """Of a pair: summed negative log-likelihood of the rejected answer; ``loss`` is the chosen one's."""
    rejected_tokens: int = 0
    wanted: bool | None = None
    """Of feedback: whether the answer was wanted."""
    error: str | None = None
    """Why the row could not be measured in full."""

    @property
    def is_pair(self) -> bool:
        """Whether the row has a chosen and a rejected answer."""
        return self.rejected_tokens > 0

    @property
    def prefers(self) -> bool | None:
        """Whether the chosen answer is the likelier one, a token; None where that was not measured."""
        if self.loss is None or self.rejected_loss is None or not (self.tokens and self.rejected_tokens):
            return None
        return self.loss / self.tokens < self.rejected_loss / self.rejected_tokens


@dataclass(frozen=True, slots=True, kw_only=True)
class Scores:
    """One model on the held-out rows."""

    model: str
    rows: tuple[RowResult, ...]
    error: str | None = None
    """Why the evaluation as a whole failed."""

    @classmethod
    def failed(cls, model: str, message: str) -> Self:
        """An evaluation that did not come to an end; no gate passes on it."""
        return cls(model=model, rows=(), error=message)

    @property
    def errors(self) -> int:
        """Rows that could not be measured in full."""
        return sum(row.error is not None for row in self.rows)

    @property
    def tokens(self) -> int:
        """Tokens that carry loss, over all rows."""
        return sum(row.tokens for row in self.rows)

    @property
    def asked(self) -> int:
        """Rows on which an answer could be right or wrong."""
        return sum(row.reference is not None for row in self.rows)

    @property
    def loss(self) -> float | None:
        """Token-weighted held-out loss, in nats a token; None unless every row was measured."""
        losses = [row.loss for row in self.rows if row.loss is not None]
        if len(losses) < len(self.rows) or self.tokens == 0:
            return None
        return math.fsum(losses) / self.tokens

    def measures(self) -> dict[str, float | None]:
        """Mean of each measure over the rows that have it; ``loss`` first. None where no row has it."""
        pairs = (row.prefers for row in self.rows)
        preference = {"preference": _mean(pairs)} if any(row.is_pair for row in self.rows) else {}
        return {
            "loss": self.loss,
            **preference,
            "exact_match": _mean(row.exact for row in self.rows),
            "token_f1": _mean(row.f1 for row in self.rows),
            "rouge_l": _mean(row.rouge_l for row in self.rows),
            "json_validity": _mean(row.json_valid for row in self.rows),
            "json_match": _mean(row.json_match for row in self.rows),
        }

    def to_json(self) -> Json:
        """All of it, JSON-able; ``from_json`` reads it back."""
        return {"model": self.model, "error": self.error, "rows": [asdict(row) for row in self.rows]}

    @classmethod
    def from_json(cls, data: Json) -> Self:
        """The scores that ``to_json`` wrote."""
        rows = tuple(RowResult(**row) for row in data["rows"])
        return cls(model=data["model"], error=data["error"], rows=rows)


def _mean(values: Iterable[float | None]) -> float | None:
    there = [value for value in values if value is not None]
    return math.fsum(there) / len(there) if there else None
