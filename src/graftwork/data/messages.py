"""What a chat template is shown of a canonical row's messages."""

from __future__ import annotations

from typing import Any

import orjson

from graftwork.data.rows import Message


def template_messages(messages: list[Message]) -> list[Message]:
    """Messages as templates expect them, the same in training and in serving.

    - keys without a value are left out, as ``apply_chat_template`` does;
    - ``weight`` is not for the model;
    - ``developer`` is ``system`` under another name, which open templates know;
    - content given as parts becomes one text;
    - arguments of tool calls are objects (the API sends them as JSON text), as vLLM shows them too.
    """
    return [_message(message) for message in messages]


def _message(message: Message) -> Message:
    shown = {key: value for key, value in message.items() if value is not None and key != "weight"}
    if shown.get("role") == "developer":
        shown["role"] = "system"
    if isinstance(shown.get("content"), list):
        shown["content"] = "".join(str(part.get("text", "")) for part in shown["content"])
    if isinstance(shown.get("tool_calls"), list):
        shown["tool_calls"] = [_call(call) for call in shown["tool_calls"]]
    return shown


def _call(call: dict[str, Any]) -> dict[str, Any]:
    function = call.get("function")
    if not isinstance(function, dict) or not isinstance(function.get("arguments"), str):
        return call
    try:
        arguments = orjson.loads(function["arguments"])
    except orjson.JSONDecodeError:
        return call
    if not isinstance(arguments, dict):
        return call
    return {**call, "function": {**function, "arguments": arguments}}
