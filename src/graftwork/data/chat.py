"""Checks of a chat row, and its canonical form.

A row is checked message by message, then as a conversation. The second is left out when a message has no
usable role: what follows from one mistake is not reported as another.
"""

from __future__ import annotations

import re
from typing import Any

from graftwork.data.findings import Note
from graftwork.data.rows import Message, Row
from graftwork.data.shapes import FIELDS
from graftwork.data.tools import Calls, calls_of, functions, tools_of

NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
_ROLES = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant", "tool": "tool"}
"""Roles on the wire, and what templates call them."""
_KEYS = frozenset({"role", "content", "name", "weight", "tool_calls", "tool_call_id", "reasoning_content"})


def chat_row(row: dict[str, Any], note: Note) -> Row | None:
    """The canonical form of ``{"messages", "tools"?, "parallel_tool_calls"?}``; None when it cannot be used.

    Every problem goes to ``note``; the row is usable only if none of them is an error.
    """
    for key in row.keys() - FIELDS["chat"]:
        _extra(key, row[key], key, note)
    tools = tools_of(row.get("tools"), note)
    parallel = row.get("parallel_tool_calls")
    if parallel is not None and not isinstance(parallel, bool):
        note(
            "parallel_tool_calls_invalid", f"parallel_tool_calls is {_kind(parallel)}.", "parallel_tool_calls"
        )
    if "messages" not in row or row["messages"] is None:
        note("messages_missing", "The row has no messages.", "messages")
        return None
    listed = row.get("tools") not in (None, [])
    sound = tools is not None and len(tools) == len(row["tools"])
    messages = messages_of(row["messages"], note, functions(tools) if sound else None, listed)
    if messages is None:
        return None
    found: Row = {"messages": messages}
    if tools:
        found["tools"] = tools
    if isinstance(parallel, bool):
        found["parallel_tool_calls"] = parallel
    return found


def messages_of(
    value: Any, note: Note, known: frozenset[str] | None = None, listed: bool = True, closed: bool = True
) -> list[Message] | None:
    """Canonical messages; None when they cannot be used at all.

    ``known`` are the functions that may be called (None: any), ``listed`` says whether the row has tools;
    ``closed`` conversations must hold and end with an answer.
    """
    if not isinstance(value, list):
        note("messages_not_a_list", f"messages is {_kind(value)}.", "messages")
        return None
    if not value:
        note("messages_empty", "The list of messages is empty.", "messages")
        return None
    calls = Calls(note, known, listed)
    messages = [_message(item, f"messages[{index}]", note, calls) for index, item in enumerate(value)]
    if any(message is None for message in messages):
        return None
    whole = [message for message in messages if message is not None]
    _conversation(whole, note, closed)
    calls.check(whole)
    return whole


def _message(value: Any, path: str, note: Note, calls: Calls) -> Message | None:
    if not isinstance(value, dict):
        note("message_not_object", f"The message is {_kind(value)}.", path)
        return None
    for key in value.keys() - _KEYS:
        _extra(key, value[key], f"{path}.{key}", note)
    role = _role(value, path, note)
    if role is None:
        return None
    message: Message = {"role": role}
    called = value.get("tool_calls")
    if called is not None and role != "assistant":
        note("tool_calls_on_non_assistant", f"A {role} message cannot call tools.", f"{path}.tool_calls")
        called = None
    content = _content(value, role, bool(called), path, note)
    if content is not None:
        message["content"] = content
    _name_and_weight(value, message, path, note)
    if called is not None:
        message["tool_calls"] = calls_of(called, path, note, calls)
    _tool_call_id(value, message, path, note)
    thought = value.get("reasoning_content")
    if thought is not None:
        if isinstance(thought, str) and role == "assistant":
            message["reasoning_content"] = thought
        else:
            note(
                "content_type",
                "reasoning_content is a string on assistant messages.",
                f"{path}.reasoning_content",
            )
    return message


def _role(value: dict[str, Any], path: str, note: Note) -> str | None:
    role = value.get("role")
    if role is None:
        note("role_missing", "The message has no role.", f"{path}.role")
        return None
    if not isinstance(role, str) or role not in _ROLES:
        shown = repr(role[:40]) if isinstance(role, str) else _kind(role)
        note("role_unknown", f"The role is {shown}.", f"{path}.role")
        return None
    return _ROLES[role]


def _content(value: dict[str, Any], role: str, called: bool, path: str, note: Note) -> str | None:
    """The text of a message; None when it has none and needs none, or has been complained of."""
    content, field = value.get("content"), f"{path}.content"
    if content is None:
        if not called:
            note("content_missing", f"The {role} message has no content.", field)
        return None
    if isinstance(content, list):
        content = _parts(content, field, note)
        if content is None:
            return None
    if not isinstance(content, str):
        note("content_type", f"Content is {_kind(content)}.", field)
        return None
    if not content.strip() and role != "tool" and not called:
        note("content_empty", f"The content of the {role} message is empty.", field)
    return content


def _parts(parts: list[Any], field: str, note: Note) -> str | None:
    texts: list[str] = []
    for index, part in enumerate(parts):
        if isinstance(part, dict) and part.get("type") == "text" and isinstance(part.get("text"), str):
            texts.append(part["text"])
        else:
            kind = part.get("type") if isinstance(part, dict) else _kind(part)
            note("content_part_unsupported", f"The part is {kind!r}, not text.", f"{field}[{index}]")
            return None
    return "".join(texts)


def _name_and_weight(value: dict[str, Any], message: Message, path: str, note: Note) -> None:
    name, weight = value.get("name"), value.get("weight")
    if name is not None:
        if isinstance(name, str) and NAME.fullmatch(name):
            message["name"] = name
        else:
            note("name_invalid", "The name is not 1 to 64 letters, digits, _ or -.", f"{path}.name")
    if weight is None:
        return
    if message["role"] != "assistant":
        note("weight_on_non_assistant", f"A {message['role']} message has no weight.", f"{path}.weight")
    elif isinstance(weight, bool) or weight not in (0, 1):
        note("weight_invalid", f"The weight is {str(weight)[:40]!r}.", f"{path}.weight")
    elif weight == 0:
        message["weight"] = 0  # 1 is the rule: left out, so that equal rows are equal


def _tool_call_id(value: dict[str, Any], message: Message, path: str, note: Note) -> None:
    call_id = value.get("tool_call_id")
    if message["role"] == "tool":
        if isinstance(call_id, str) and call_id:
            message["tool_call_id"] = call_id
        else:
            note(
                "tool_call_id_missing",
                "The tool message does not say which call it answers.",
                f"{path}.tool_call_id",
            )
    elif call_id is not None:
        note("extra_field", f"A {message['role']} message has no tool_call_id.", f"{path}.tool_call_id")


def _conversation(messages: list[Message], note: Note, closed: bool) -> None:
    said = [message for message in messages if message["role"] == "assistant"]
    last = len(messages) - 1
    if closed and not said:
        note("no_assistant_message", "No message is the assistant's.", "messages")
    elif closed and messages[last]["role"] != "assistant":
        note(
            "last_message_not_assistant",
            f"The last message is the {messages[last]['role']}'s.",
            f"messages[{last}].role",
        )
    if closed and said and all(message.get("weight") == 0 for message in said):
        note("all_weights_zero", "Every assistant message has weight 0: nothing is learnt.", "messages")
    for index in range(1, len(messages)):
        role, before = messages[index]["role"], messages[index - 1]
        if role == "system":
            note(
                "system_not_first",
                "A system message stands behind the first place.",
                f"messages[{index}].role",
            )
        elif role == before["role"] and role != "tool" and "tool_calls" not in before:
            note("consecutive_roles", f"Two {role} messages stand in a row.", f"messages[{index}].role")


def _extra(key: str, value: Any, field: str, note: Note) -> None:
    if value is None or value == []:
        return  # "refusal": null and the like, as the API writes them
    if key in ("function_call", "functions"):
        note("function_call_deprecated", f"{key} is the API's old way of calling tools.", field)
    else:
        note("extra_field", f"The format has no field {key[:40]!r}.", field)


def _kind(value: Any) -> str:
    if value is None:
        return "null"
    kinds = {bool: "true or false", str: "a string", int: "a number", float: "a number", list: "a list"}
    return kinds.get(type(value), "an object")
