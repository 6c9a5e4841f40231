"""What a canonical row gives to learn: one conversation, or each answer of a preference as one of its own."""

from __future__ import annotations

from graftwork.data.rows import Message, Row, kind


def answers(row: Row) -> tuple[Row, ...]:
    """The rows that are rendered for ``row``: itself, or for a preference the preferred answer's conversation
    and then the other's. Of those only the answer carries loss, whatever the assistant said before."""
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
