"""Every format's rows to canonical rows; field paths in findings are those of the file."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import orjson

from graftwork.data.chat import chat_row, messages_of
from graftwork.data.findings import Note
from graftwork.data.rows import Message, Row
from graftwork.data.shapes import FIELDS, Shape
from graftwork.data.tools import tools_of

_SPEAKERS = {
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "assistant": "assistant",
    "model": "assistant",
    "system": "system",
    "function_call": "function_call",
    "observation": "tool",
    "tool": "tool",
}


def convert(shape: Shape, row: dict[str, Any], note: Note, table: bool) -> Row | None:
    """The canonical row; None when it cannot be used. Unknown columns of a ``table`` are only warned of."""
    if shape != "chat" or table:
        _unknown_fields(shape, row, note, table)
        row = {key: value for key, value in row.items() if key in FIELDS[shape]}
    return _CONVERT[shape](row, note)


def _unknown_fields(shape: Shape, row: dict[str, Any], note: Note, table: bool) -> None:
    for key in row.keys() - FIELDS[shape]:
        if row[key] is not None:
            code = "extra_column" if table else "extra_field"
            note(code, f"The format has no field {key[:40]!r}.", key)


def _text(row: dict[str, Any], key: str, missing: str, empty: str | None, note: Note) -> str | None:
    """A string field; ``empty`` is the finding for an empty one, None allows it."""
    value = row.get(key)
    if value is None:
        note(missing, f"The row has no {key}.", key)
    elif not isinstance(value, str):
        note("field_type", f"{key} is not a string.", key)
    elif empty is not None and not value.strip():
        note(empty, f"{key} is empty.", key)
    else:
        return value
    return None


def _prompt_completion(row: dict[str, Any], note: Note) -> Row | None:
    prompt = _text(row, "prompt", "prompt_missing", None, note)
    completion = _text(row, "completion", "completion_missing", "completion_empty", note)
    return {"prompt": prompt, "completion": completion} if prompt is not None and completion else None


def _plain_text(row: dict[str, Any], note: Note) -> Row | None:
    text = _text(row, "text", "text_empty", "text_empty", note)
    return {"text": text} if text else None


def _optional(row: dict[str, Any], key: str, note: Note) -> str:
    value = row.get(key)
    if value is None:
        return ""
    if not isinstance(value, str):
        note("field_type", f"{key} is not a string.", key)
        return ""
    return value


def _spoken(system: str, question: str | None, answer: str | None) -> Row | None:
    if question is None or answer is None:
        return None
    messages: list[Message] = [{"role": "system", "content": system}] if system.strip() else []
    messages += [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    return {"messages": messages}


def _input_output(row: dict[str, Any], note: Note) -> Row | None:
    question = _text(row, "input", "prompt_missing", "prompt_empty", note)
    answer = _text(row, "output", "completion_missing", "completion_empty", note)
    return _spoken(_optional(row, "system", note), question, answer)


def _alpaca(row: dict[str, Any], note: Note) -> Row | None:
    question = _text(row, "instruction", "prompt_missing", "prompt_empty", note)
    answer = _text(row, "output", "completion_missing", "completion_empty", note)
    more = _optional(row, "input", note)
    if question is not None and more.strip():
        question = f"{question}\n\n{more}"
    return _spoken(_optional(row, "system", note), question, answer)


def _sharegpt(row: dict[str, Any], note: Note) -> Row | None:
    turns = row.get("conversations")
    field = _renamed(note)
    if turns is None:
        field("messages_missing", "The row has no conversations.", "messages")
        return None
    if not isinstance(turns, list):
        field("messages_not_a_list", "conversations is not a list.", "messages")
        return None
    messages = [_turn(turn, index) for index, turn in enumerate(turns)]
    system = _optional(row, "system", note)
    if system.strip():
        turn = {"role": "system", "content": system}
        messages.insert(0, turn)
        field = _renamed(note, shift=1)
    _answer_calls(messages)
    tools = row.get("tools")
    if isinstance(tools, str):
        tools = _tool_text(tools, note)
    made: dict[str, Any] = {"messages": messages}
    if tools:
        made["tools"] = tools
    return chat_row(made, field)


def _turn(turn: Any, index: int) -> Any:
    """A ``{"from", "value"}`` turn as a message; anything else is left for the checks to complain of."""
    if not isinstance(turn, dict) or "role" in turn:
        return turn
    rest = {key: value for key, value in turn.items() if key not in ("from", "value")}
    speaker, value = turn.get("from"), turn.get("value")
    role = _SPEAKERS.get(speaker, speaker) if isinstance(speaker, str) else speaker
    if role != "function_call":
        return {"role": role, "content": value, **rest}
    try:
        call = orjson.loads(value) if isinstance(value, str) else None
    except orjson.JSONDecodeError:
        call = None
    call = call if isinstance(call, dict) else {}
    function = {"name": call.get("name"), "arguments": call.get("arguments", {})}
    return {
        "role": "assistant",
        "tool_calls": [{"id": f"call_{index}", "type": "function", "function": function}],
        **rest,
    }


def _answer_calls(messages: list[Any]) -> None:
    """ShareGPT has no call ids: a tool turn answers the call before it."""
    open_id = None
    for message in messages:
        if not isinstance(message, dict):
            continue
        calls = message.get("tool_calls")
        if isinstance(calls, list) and calls and isinstance(calls[0], dict):
            open_id = calls[0].get("id")
        elif message.get("role") == "tool" and "tool_call_id" not in message and open_id is not None:
            message["tool_call_id"], open_id = open_id, None


def _tool_text(text: str, note: Note) -> list[Any] | None:
    if not text.strip():
        return None
    try:
        tools = orjson.loads(text)
    except orjson.JSONDecodeError:
        tools = None
    if not isinstance(tools, list):
        note("tools_malformed", "tools is not a JSON list.", "tools")
        return None
    return [
        {"type": "function", "function": tool} if isinstance(tool, dict) and "name" in tool else tool
        for tool in tools
    ]


_MESSAGE = re.compile(r"messages(?:\[(\d+)\])?")


def _renamed(note: Note, shift: int = 0) -> Note:
    """Notes of messages under the names they have in the file: ``conversations[i].from`` and ``.value``."""

    def renamed(code: str, message: str, field: str | None) -> None:
        found = _MESSAGE.match(field or "")
        if field is not None and found is not None:
            index = f"[{max(int(found[1]) - shift, 0)}]" if found[1] else ""
            rest = field[found.end() :].replace(".role", ".from").replace(".content", ".value")
            field = f"conversations{index}{rest}"
        note(code, message, field)

    return renamed


def _preference_openai(row: dict[str, Any], note: Note) -> Row | None:
    asked = row.get("input")
    if not isinstance(asked, dict):
        note("preference_malformed", 'input is not an object with "messages".', "input")
        return None
    return _pair(
        asked.get("messages"),
        asked.get("tools"),
        {key: row.get(key) for key in ("preferred_output", "non_preferred_output")},
        note,
        "input.messages",
    )


def _preference(row: dict[str, Any], note: Note) -> Row | None:
    """Chosen and rejected: texts or message lists, with a prompt apart or as the beginning both share."""
    prompt, chosen, rejected = row.get("prompt"), row.get("chosen"), row.get("rejected")
    if isinstance(prompt, str):
        prompt = [{"role": "user", "content": prompt}]
    both = [chosen, rejected]
    if prompt is None and isinstance(chosen, list) and isinstance(rejected, list):
        if chosen[:-1] != rejected[:-1] or len(chosen) < 2:
            note("preference_malformed", "chosen and rejected do not begin with the same prompt.", "rejected")
            return None
        prompt, both = chosen[:-1], [chosen[-1:], rejected[-1:]]
    if prompt is None:
        note("preference_malformed", "The row has no prompt.", "prompt")
        return None
    outputs = {
        key: [{"role": "assistant", "content": value}] if isinstance(value, str) else value
        for key, value in zip(("chosen", "rejected"), both, strict=True)
    }
    return _pair(prompt, row.get("tools"), outputs, note, "prompt")


def _pair(messages: Any, listed: Any, outputs: dict[str, Any], note: Note, field: str) -> Row | None:
    tools = tools_of(listed, note)
    if messages is None:
        note("preference_malformed", "The row has no prompt.", field)
        return None
    asked = messages_of(messages, _under(note, field), closed=False)
    answers: list[list[Message] | None] = []
    for key, output in outputs.items():
        if not isinstance(output, list) or len(output) != 1:
            note("preference_malformed", f"{key} is not a list of one assistant message.", key)
            return None
        answers.append(messages_of(output, _under(note, key)))
    if asked is None or answers[0] is None or answers[1] is None:
        return None
    if answers[0] == answers[1]:
        note("preference_same", "Both answers are the same.", None)
    asked_row: Row = {"messages": asked}
    if tools:
        asked_row["tools"] = tools
    return {"input": asked_row, "preferred_output": answers[0], "non_preferred_output": answers[1]}


def _under(note: Note, field: str) -> Note:
    """Notes of messages under another name than ``messages``."""

    def under(code: str, message: str, path: str | None) -> None:
        note(
            code,
            message,
            _MESSAGE.sub(lambda m: f"{field}[{m[1]}]" if m[1] else field, path or field, count=1),
        )

    return under


def _feedback(row: dict[str, Any], note: Note) -> Row | None:
    """One answer, wanted or not; prompt and completion are texts or lists of messages."""
    label, prompt, output = row.get("label"), row.get("prompt"), row.get("completion")
    if isinstance(label, str):  # a table's cell
        label = {"true": True, "false": False}.get(label.lower(), label)
    if not isinstance(label, bool):
        note("label_invalid", "label is neither true nor false.", "label")
        return None
    tools = tools_of(row.get("tools"), note)
    if isinstance(prompt, str):
        prompt = [{"role": "user", "content": prompt}]
    if isinstance(output, str):
        output = [{"role": "assistant", "content": output}]
    if prompt is None:
        note("prompt_missing", "The row has no prompt.", "prompt")
        return None
    if not isinstance(output, list) or len(output) != 1:
        note("completion_missing", "completion is neither text nor one assistant message.", "completion")
        return None
    asked = messages_of(prompt, _under(note, "prompt"), closed=False)
    answer = messages_of(output, _under(note, "completion"))
    if asked is None or answer is None:
        return None
    asked_row: Row = {"messages": asked}
    if tools:
        asked_row["tools"] = tools
    return {"input": asked_row, "output": answer, "label": label}


_CONVERT: dict[Shape, Callable[[dict[str, Any], Note], Row | None]] = {
    "chat": chat_row,
    "prompt_completion": _prompt_completion,
    "input_output": _input_output,
    "alpaca": _alpaca,
    "sharegpt": _sharegpt,
    "text": _plain_text,
    "preference_openai": _preference_openai,
    "preference": _preference,
    "feedback": _feedback,
}
