"""Checks of tools, tool calls and their answers."""

from __future__ import annotations

import re
from typing import Any

import orjson

from graftwork.data.findings import Note
from graftwork.data.rows import Message

_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
_FUNCTION_KEYS = ("name", "description", "parameters", "strict")


def tools_of(value: Any, note: Note) -> list[dict[str, Any]] | None:
    """Canonical tools: ``type``, then ``function`` with name, description and parameters in that order.

    None when the row has none, or they are malformed.
    """
    if value is None or value == []:
        return None
    if not isinstance(value, list):
        note("tools_malformed", "tools is not a list.", "tools")
        return None
    names: set[str] = set()
    found: list[dict[str, Any]] = []
    for index, tool in enumerate(value):
        problem = _tool_problem(tool, names)
        if problem is not None:
            note("tools_malformed", problem, f"tools[{index}]")
            continue
        function = tool["function"]
        names.add(function["name"])
        ordered = {key: function[key] for key in _FUNCTION_KEYS if function.get(key) is not None}
        rest = {key: item for key, item in function.items() if key not in _FUNCTION_KEYS}
        found.append({"type": "function", "function": {**ordered, **rest}})
    return found


def _tool_problem(tool: Any, names: set[str]) -> str | None:
    if not isinstance(tool, dict) or tool.get("type") != "function":
        return 'The tool is not an object with "type": "function".'
    function = tool.get("function")
    if not isinstance(function, dict):
        return "The tool has no function object."
    name = function.get("name")
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        return "The function's name is not 1 to 64 letters, digits, _ or -."
    if name in names:
        return f"The function {name} is listed twice."
    if not isinstance(function.get("parameters"), dict | None):
        return "The function's parameters are not a JSON schema object."
    if not isinstance(function.get("description"), str | None):
        return "The function's description is not a string."
    return None


def functions(tools: list[dict[str, Any]] | None) -> frozenset[str] | None:
    """Names of the functions that may be called; None when no tools are listed."""
    return None if tools is None else frozenset(tool["function"]["name"] for tool in tools)


def calls_of(value: Any, path: str, note: Note, calls: Calls) -> list[dict[str, Any]]:
    """Canonical tool calls of a message: arguments as JSON text."""
    field = f"{path}.tool_calls"
    if not isinstance(value, list) or not value:
        note("tool_calls_malformed", "tool_calls is not a list of calls.", field)
        calls.broken = True
        return []
    return [
        call for index, item in enumerate(value) if (call := calls.one(item, f"{field}[{index}]")) is not None
    ]


class Calls:
    """The calls of one conversation: which functions there are, which ids were used, what is unanswered."""

    def __init__(self, note: Note, known: frozenset[str] | None, listed: bool) -> None:
        self._note = note
        self._known = known
        self._listed = listed
        self._ids: set[str] = set()
        self.broken = False
        """A malformed call was seen: answers cannot be matched with calls."""

    def one(self, call: Any, path: str) -> dict[str, Any] | None:
        """The canonical form of one call, or None."""
        function = call.get("function") if isinstance(call, dict) else None
        problem = None
        if not isinstance(call, dict) or call.get("type", "function") != "function":
            problem = 'The call is not an object with "type": "function".'
        elif not isinstance(call.get("id"), str) or not call["id"]:
            problem = "The call has no id."
        elif not isinstance(function, dict) or not isinstance(function.get("name"), str):
            problem = "The call names no function."
        if problem is not None or function is None:
            self._note("tool_calls_malformed", problem or "", path)
            self.broken = True
            return None
        if call["id"] in self._ids:
            self._note("tool_call_id_duplicate", f"The id {call['id'][:40]!r} is used twice.", f"{path}.id")
        self._ids.add(call["id"])
        name = function["name"]
        if self._known is not None and name not in self._known:
            self._note(
                "tool_call_unknown_function",
                f"The function {name[:64]!r} is not listed.",
                f"{path}.function.name",
            )
        arguments = self._arguments(function.get("arguments", "{}"), f"{path}.function.arguments")
        return {"id": call["id"], "type": "function", "function": {"name": name, "arguments": arguments}}

    def _arguments(self, value: Any, path: str) -> str:
        if isinstance(value, dict):
            return orjson.dumps(value).decode()
        try:
            parsed = orjson.loads(value) if isinstance(value, str) else None
        except orjson.JSONDecodeError:
            parsed = None
        if not isinstance(parsed, dict):
            self._note(
                "tool_call_arguments_not_json", "The arguments are not a JSON object in a string.", path
            )
        return value if isinstance(value, str) else ""

    def check(self, messages: list[Message]) -> None:
        """Every call is answered right after it, and every answer has its call."""
        if self.broken or any(m["role"] == "tool" and "tool_call_id" not in m for m in messages):
            return
        asked = False
        pending: dict[str, int] = {}
        for index, message in enumerate(messages):
            if message["role"] == "tool":
                if pending.pop(message["tool_call_id"], None) is None:
                    self._note(
                        "tool_message_without_call",
                        f"No open call has the id {message['tool_call_id'][:40]!r}.",
                        f"messages[{index}].tool_call_id",
                    )
                    if pending:  # most likely meant for this one
                        pending.pop(next(iter(pending)))
                continue
            self._unanswered(pending)
            pending = {call["id"]: index for call in message.get("tool_calls", ())}
            asked = asked or bool(pending)
        if asked and not self._listed:
            self._note("tools_missing", "Tools are called, but the row lists none.", "tools")

    def _unanswered(self, pending: dict[str, int]) -> None:
        for call_id, index in pending.items():
            self._note(
                "tool_call_unanswered",
                f"The call {call_id[:40]!r} is not answered before the conversation goes on.",
                f"messages[{index}].tool_calls",
            )
