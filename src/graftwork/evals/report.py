"""The evaluation report: everything measured and decided, as a JSON document and as text for the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from graftwork.evals.gate import GateReport, finite
from graftwork.evals.results import Json, Scores
from graftwork.evals.rules import Comparison
from graftwork.evals.statistics import loss_difference, mcnemar, wilson

FORMAT = 1
SAMPLES = 8
_NAMES = ("base", "live", "new")


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainerLosses:
    """What the trainer itself measured on the same held-out rows, in nats a token; None: it did not."""

    valid_loss: float | None = None
    base_valid_loss: float | None = None
    valid_tokens: int | None = None


def assemble(
    comparison: Comparison, gate: GateReport, trainer: TrainerLosses | None = None, *, samples: int = SAMPLES
) -> Json:
    """The report: a JSON document without numbers that are not finite.

    Keys: ``format``; ``verdict``; ``gate`` (verdict, reasons, findings, rules, table); ``scores`` by model
    (``new``, ``base``, ``live``), each with its measures, counts and the Wilson interval of its exact
    match; ``losses`` (served beside trained); ``statistics`` (new against base and live); ``samples`` (the
    first held-out prompts with all answers); ``rows`` (every row by hash, with each model's loss and exact
    match; duplicates stand as often as they were measured).
    """
    named = dict(comparison.named())
    return finite(
        {
            "format": FORMAT,
            "verdict": gate.verdict.value,
            "gate": gate.to_json(),
            "scores": {name: _summary(scores) for name, scores in named.items()},
            "losses": _losses(comparison, trainer or TrainerLosses()),
            "statistics": {
                name: _against(comparison.new, scores) for name, scores in named.items() if name != "new"
            },
            "samples": _samples(named, samples),
            "rows": _rows(named),
        }
    )


def text(report: Json, *, samples: int = 3) -> str:
    """The report for a terminal: the table, the verdict, its reasons, some answers side by side."""
    live = any(line["live"] is not None for line in report["gate"]["table"])
    names = [name for name in _NAMES if live or name != "live"]
    lines = [["", *names]]
    lines += [
        [line["measure"].replace("_", " "), *(_number(line[name]) for name in names)]
        for line in report["gate"]["table"]
    ]
    parts = [
        grid(lines),
        f"gate {report['gate']['name']}@{report['gate']['version']}: {report['verdict'].upper()}",
    ]
    parts[1] += "".join(f"\n  - {reason}" for reason in report["gate"]["reasons"])
    for sample in report["samples"][:samples]:
        answers = [("reference", sample["reference"]), *sample["answers"].items()]
        shown = [[f"  {name}", _one_line(answer)] for name, answer in answers]
        parts.append(f"{_one_line(sample['prompt'])}\n{grid(shown)}")
    return "\n\n".join(parts) + "\n"


def grid(lines: Sequence[Sequence[str]]) -> str:
    """Cells in columns: the first to the left, numbers to the right."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    rows: list[str] = []
    for first, *rest in lines:
        cells = [first.ljust(widths[0])]
        if len(rest) > 1:
            cells += [cell.rjust(width) for cell, width in zip(rest, widths[1:], strict=True)]
        else:
            cells += rest
        rows.append("  ".join(cells).rstrip())
    return "\n".join(rows)


def _summary(scores: Scores) -> Json:
    exact = [row.exact for row in scores.rows if row.exact is not None]
    low, high = wilson(sum(exact), len(exact))
    return {
        "model": scores.model,
        "error": scores.error,
        "rows": len(scores.rows),
        "asked": scores.asked,
        "errors": scores.errors,
        "tokens": scores.tokens,
        "measures": scores.measures(),
        "exact_match_interval": {"low": low, "high": high, "confidence": 0.95, "rows": len(exact)},
        "row_errors": [{"row": row.row, "error": row.error} for row in scores.rows if row.error is not None],
    }


def _losses(comparison: Comparison, trainer: TrainerLosses) -> Json:
    """The same loss measured twice: by the trainer, and through the serving path."""
    pairs = {
        "new": (trainer.valid_loss, comparison.new.loss),
        "base": (trainer.base_valid_loss, comparison.base.loss),
    }
    measured: Json = {
        name: {
            "trained": trained,
            "served": served,
            "difference": None if trained is None or served is None else served - trained,
        }
        for name, (trained, served) in pairs.items()
    }
    tokens = {"trained": trainer.valid_tokens, "served": comparison.new.tokens}
    return {**measured, "tokens": tokens}


def _against(new: Scores, old: Scores) -> Json:
    """Statistics over the rows that both models have measured; None where there are too few."""
    pairs = [(a, b) for a, b in zip(new.rows, old.rows, strict=False) if a.row == b.row]
    losses = [(a.loss, b.loss, a.tokens) for a, b in pairs if a.loss is not None and b.loss is not None]
    exact = [(a.exact, b.exact) for a, b in pairs if a.exact is not None and b.exact is not None]
    difference: Json | None = None
    if len(losses) > 1 and sum(tokens for _, _, tokens in losses):
        ours, theirs, tokens = zip(*losses, strict=True)
        difference = asdict(loss_difference(ours, theirs, tokens))
    return {
        "loss_difference": difference,
        "exact_match": asdict(mcnemar([a for a, _ in exact], [b for _, b in exact])) if exact else None,
        "rows": len(pairs),
    }


def _samples(named: dict[str, Scores], count: int) -> list[Json]:
    asked = [beside for beside in _beside(named) if beside["new"] and beside["new"].reference is not None]
    samples: list[Json] = []
    for beside in asked[:count]:
        row = beside["new"]
        answers = {name: beside[name].answer for name in _NAMES if beside.get(name)}
        samples.append({"row": row.row, "prompt": row.prompt, "reference": row.reference, "answers": answers})
    return samples


def _rows(named: dict[str, Scores]) -> list[Json]:
    rows: list[Json] = []
    for beside in _beside(named):
        there = {name: row for name, row in beside.items() if row is not None}
        first = next(iter(there.values()))
        losses = {name: row.loss for name, row in there.items()}
        exact = {name: row.exact for name, row in there.items()}
        rows.append({"row": first.row, "tokens": first.tokens, "loss": losses, "exact": exact})
    return rows


def _beside(named: dict[str, Scores]) -> list[dict[str, Any]]:
    """The results of every row under each model, in order; None for a model that has not seen it."""
    order = max((scores.rows for scores in named.values()), key=len)
    return [
        {
            name: scores.rows[index]
            if index < len(scores.rows) and scores.rows[index].row == row.row
            else None
            for name, scores in named.items()
        }
        for index, row in enumerate(order)
    ]


def _number(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.3f}" if isinstance(value, float) else str(value)


def _one_line(words: str | None, width: int = 100) -> str:
    line = " ".join((words or "").split())
    return line if len(line) <= width else line[: width - 1] + "…"
