"""What a canonical row gives to learn: one conversation, or each answer of a preference as one of its own."""

from __future__ import annotations

from graftwork.core.errors import InvalidData
from graftwork.core.specs import Method
from graftwork.data.rows import Kind, Message, Row, kind

_TAKES: dict[Method, frozenset[Kind]] = {
    "sft": frozenset({"chat", "completion", "text"}),
    "dpo": frozenset({"preference"}),
    "orpo": frozenset({"preference"}),
    "kto": frozenset({"preference", "feedback"}),
    "cpt": frozenset({"text"}),
}


def answers(row: Row, method: Method | None = None) -> tuple[Row, ...]:
    """The rows that are rendered for ``row``: itself, or for a preference the preferred answer's conversation
    and then the other's. Of those only the answer carries loss, whatever the assistant said before.

    Raises:
        InvalidData: ``method_mismatch``, ``method`` does not learn from such rows.
    """
    if method is not None and kind(row) not in _TAKES[method]:
        raise InvalidData(
            f"The method {method} does not learn from {kind(row)} rows.",
            fix="Give rows as the method takes them (docs/methods.md).",
            code="method_mismatch",
        )
    match kind(row):
        case "preference":
            return _spoken(row, "preferred_output"), _spoken(row, "non_preferred_output")
        case "feedback":
            return (_spoken(row, "output"),)
        case _:
            return (row,)


def _spoken(row: Row, key: str) -> Row:
    asked = row["input"]
    return {**asked, "messages": [*(_silent(message) for message in asked["messages"]), *row[key]]}


def _silent(message: Message) -> Message:
    return {**message, "weight": 0} if message["role"] == "assistant" else message
