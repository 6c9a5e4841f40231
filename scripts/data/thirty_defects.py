"""Write the chat file with thirty different mistakes, and the findings it must give, under tests/data."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parents[2] / "tests" / "data"

CALL = {"id": "call_1", "type": "function", "function": {"name": "look_up", "arguments": '{"word":"a"}'}}
TOOLS = [{"type": "function", "function": {"name": "look_up", "parameters": {"type": "object"}}}]


def chat(*messages: Any, **row: Any) -> dict[str, Any]:
    """A row of messages; a pair is (role, content)."""
    return {
        "messages": [
            {"role": message[0], "content": message[1]} if isinstance(message, tuple) else message
            for message in messages
        ],
        **row,
    }


def good(number: int) -> dict[str, Any]:
    """A row without mistakes, different from all others."""
    return chat(("user", f"What is {number} plus {number}?"), ("assistant", f"{2 * number}."))


def asks(call: Any, answer: str = "call_1") -> dict[str, Any]:
    """A row that calls a tool, gets its answer, and speaks."""
    return chat(
        ("user", "Look it up."),
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": answer, "content": "found"},
        ("assistant", "Here it is."),
        tools=TOOLS,
    )


def defects() -> list[tuple[str, bytes]]:
    """(code, line): each line has that one mistake."""
    user, answer = ("user", "Say yes."), ("assistant", "Yes.")

    def line(row: Any) -> bytes:
        return json.dumps(row, ensure_ascii=False).encode()

    text = line(chat(user, answer))
    deep = text[:-1] + b', "tools": ' + b"[" * 40 + b"]" * 40 + b"}"
    return [
        ("invalid_utf8", text.replace(b"Yes.", b"\xff\xfe.")),
        ("invalid_json", text[:-2]),
        ("duplicate_key", text.replace(b'"content": "Yes."', b'"content": "No.", "content": "Yes."')),
        ("nul_character", text.replace(b"Yes.", b"Yes\\u0000.")),
        ("lone_surrogate", text.replace(b"Yes.", b"Yes \\ud83d.")),
        ("nonfinite_number", text.replace(b'"Yes."', b'"Yes.", "weight": NaN')),
        ("too_deep", deep),
        ("not_an_object", line(["user", "Say yes."])),
        ("mixed_formats", line({"prompt": "Say yes.", "completion": "Yes."})),
        ("ambiguous_format", line({**chat(user, answer), "prompt": "Say yes."})),
        ("extra_field", line({**chat(user, answer), "mesages": []}).replace(b"[]}", b"[1]}")),
        ("messages_missing", line({"tools": TOOLS})),
        ("messages_not_a_list", line({"messages": "Say yes."})),
        ("messages_empty", line({"messages": []})),
        ("message_not_object", line(chat(user, "Yes."))),
        ("role_missing", line(chat(user, {"content": "Yes."}))),
        ("role_unknown", line(chat(user, ("bot", "Yes.")))),
        ("content_missing", line(chat(user, {"role": "assistant"}))),
        ("content_type", line(chat(user, ("assistant", 1)))),
        ("content_empty", line(chat(user, ("assistant", " ")))),
        ("weight_invalid", line(chat(user, {"role": "assistant", "content": "Yes.", "weight": 2}))),
        ("weight_on_non_assistant", line(chat({"role": "user", "content": "Yes?", "weight": 0}, answer))),
        ("all_weights_zero", line(chat(user, {"role": "assistant", "content": "Yes.", "weight": 0}))),
        ("no_assistant_message", line(chat(user))),
        ("last_message_not_assistant", line(chat(user, answer, ("user", "Sure?")))),
        ("system_not_first", line(chat(user, ("system", "Be brief."), answer))),
        ("name_invalid", line(chat({"role": "user", "content": "Yes?", "name": "J. Doe"}, answer))),
        (
            "tool_call_arguments_not_json",
            line(asks({**CALL, "function": {"name": "look_up", "arguments": "word=a"}})),
        ),
        (
            "tool_call_unknown_function",
            line(asks({**CALL, "function": {"name": "find", "arguments": "{}"}})),
        ),
        ("tool_message_without_call", line(asks(CALL, answer="call_2"))),
    ]


def main() -> None:
    """Write both files: good rows stand between the broken ones."""
    lines: list[bytes] = [json.dumps(good(0)).encode()]
    expected: list[dict[str, Any]] = []
    for number, (code, line) in enumerate(defects(), 1):
        lines.append(line)
        expected.append({"line": len(lines), "code": code})
        if number % 2 == 0:
            lines.append(json.dumps(good(number)).encode())
    (FOLDER / "thirty_defects.jsonl").write_bytes(b"\n".join(lines) + b"\n")
    listed = ",\n".join(f"  {json.dumps(item)}" for item in expected)
    (FOLDER / "thirty_defects.expected.json").write_text(f"[\n{listed}\n]\n")


if __name__ == "__main__":
    main()
