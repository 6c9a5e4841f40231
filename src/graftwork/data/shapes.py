"""Which format rows are of, told by their fields; what fits two formats is not guessed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any, Literal

from graftwork.core.specs import Method

Shape = Literal[
    "chat",
    "prompt_completion",
    "input_output",
    "alpaca",
    "sharegpt",
    "text",
    "preference_openai",
    "preference",
    "feedback",
]

NAMES: dict[Shape, str] = {
    "chat": "chat (messages)",
    "prompt_completion": "prompt/completion",
    "input_output": "input/output",
    "alpaca": "Alpaca (instruction, output)",
    "sharegpt": "ShareGPT (conversations)",
    "text": "plain text (text)",
    "preference_openai": "preference (input, preferred_output, non_preferred_output)",
    "preference": "preference (chosen, rejected)",
    "feedback": "feedback (prompt, completion, label)",
}
"""How findings call the formats."""

FIELDS: dict[Shape, frozenset[str]] = {
    "chat": frozenset({"messages", "tools", "parallel_tool_calls"}),
    "prompt_completion": frozenset({"prompt", "completion"}),
    "input_output": frozenset({"input", "output", "system"}),
    "alpaca": frozenset({"instruction", "input", "output", "system"}),
    "sharegpt": frozenset({"conversations", "system", "tools", "id"}),
    "text": frozenset({"text"}),
    "preference_openai": frozenset({"input", "preferred_output", "non_preferred_output"}),
    "preference": frozenset({"prompt", "chosen", "rejected", "tools"}),
    "feedback": frozenset({"prompt", "completion", "label", "tools"}),
}
"""Every field a format knows."""

PREFERENCE: frozenset[Shape] = frozenset({"preference_openai", "preference"})
PLAIN: frozenset[Shape] = frozenset(FIELDS) - PREFERENCE - {"feedback"}
TAKES: dict[Method, frozenset[Shape]] = {
    "sft": PLAIN,
    "dpo": PREFERENCE,
    "orpo": PREFERENCE,
    "kto": frozenset[Shape]({"preference_openai", "preference", "feedback"}),
    "cpt": frozenset({"text"}),
}
"""What each method learns from."""
METHOD_NAMES: dict[Method, str] = {
    "sft": "supervised fine-tuning",
    "dpo": "DPO",
    "orpo": "ORPO",
    "kto": "KTO",
    "cpt": "continued pre-training",
}

_MARKS: tuple[tuple[Shape, frozenset[str]], ...] = (
    ("chat", frozenset({"messages"})),
    ("sharegpt", frozenset({"conversations"})),
    ("preference_openai", frozenset({"preferred_output", "non_preferred_output"})),
    ("preference", frozenset({"chosen", "rejected"})),
    ("alpaca", frozenset({"instruction"})),
    ("prompt_completion", frozenset({"prompt", "completion"})),
    ("input_output", frozenset({"input", "output"})),
    ("text", frozenset({"text"})),
)
"""A field that speaks for a format. Fields of formats higher up the list are theirs: ``input`` is Alpaca's
where there is an ``instruction``."""
_FEEDBACK = frozenset({"prompt", "completion", "label"})
"""All three together: a label alone says nothing of a row."""
_CLAIMS: frozenset[Shape] = frozenset({"preference_openai", "preference", "alpaca"})


def candidates(fields: Iterable[str]) -> tuple[Shape, ...]:
    """The formats a row's fields speak for: one, when all is well."""
    left = set(fields)
    if left >= _FEEDBACK:
        return ("feedback",)
    found: list[Shape] = []
    for shape, marks in _MARKS:
        if left & marks:
            found.append(shape)
            if shape in _CLAIMS:
                left -= FIELDS[shape]
    return tuple(found)


def dominant(rows: Iterable[dict[str, Any]]) -> tuple[Shape | None, tuple[Shape, ...]]:
    """The format most rows have (the first seen, among equals), and what the rows lay between if there is
    none."""
    counts: Counter[tuple[Shape, ...]] = Counter(candidates(row) for row in rows)
    clear: dict[Shape, int] = {fits[0]: count for fits, count in counts.items() if len(fits) == 1}
    if clear:
        return max(clear, key=lambda shape: clear[shape]), ()
    between: dict[Shape, None] = {shape: None for fits in counts for shape in fits}
    return None, tuple(between)


def listed(shapes: Iterable[Shape]) -> str:
    """``a and b``, ``a, b and c``."""
    names = [NAMES[shape] for shape in shapes]
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
