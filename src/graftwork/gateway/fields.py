"""Checks of the fields a request may carry: every number bounded, every unknown field refused.

The tables ``CHAT`` and ``COMPLETIONS`` are the allow-list. A field that is not in them never reaches an
engine: it must not see a caller's request ids, cache salts, adapter paths or unbounded integers.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from graftwork.core.errors import InvalidRequest

MAX_N = 8
MAX_TOKENS = 131_072
MAX_STOPS = 4
MAX_STOP_LENGTH = 256
MAX_MESSAGES = 2048
MAX_PROMPTS = 32
MAX_TOOLS = 128
MAX_METADATA = 16
ROLES = frozenset({"system", "developer", "user", "assistant", "tool", "function"})

Check = Callable[[str, Any], None]


def invalid(param: str, message: str, fix: str, code: str = "invalid_value") -> InvalidRequest:
    """A 400 that names the field."""
    return InvalidRequest(message, fix=fix, code=code, param=param)


def integer(low: int, high: int) -> Check:
    """A whole number from ``low`` to ``high``."""

    def check(param: str, value: Any) -> None:
        if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
            raise invalid(param, f"'{param}' must be an integer from {low} to {high}.", "Send such a number.")

    return check


def number(low: float, high: float) -> Check:
    """A number from ``low`` to ``high``."""

    def check(param: str, value: Any) -> None:
        if not isinstance(value, int | float) or isinstance(value, bool) or not low <= value <= high:
            raise invalid(param, f"'{param}' must be a number from {low} to {high}.", "Send such a number.")

    return check


def boolean(param: str, value: Any) -> None:
    """True or false."""
    if not isinstance(value, bool):
        raise invalid(param, f"'{param}' must be true or false.", "Send a boolean.", "invalid_type")


def mapping(param: str, value: Any) -> None:
    """A JSON object."""
    if not isinstance(value, dict):
        raise invalid(param, f"'{param}' must be an object.", "Send a JSON object.", "invalid_type")


def text_or_mapping(param: str, value: Any) -> None:
    """A string or a JSON object."""
    if not isinstance(value, str | dict):
        raise invalid(param, f"'{param}' must be a string or an object.", "Send one.", "invalid_type")


def stop(param: str, value: Any) -> None:
    """A stop text, or up to four."""
    stops = [value] if isinstance(value, str) else value
    if not isinstance(stops, list) or len(stops) > MAX_STOPS:
        raise invalid(param, f"'{param}' must be a string or up to {MAX_STOPS} strings.", "Send fewer.")
    for item in stops:
        if not isinstance(item, str) or not 0 < len(item) <= MAX_STOP_LENGTH:
            raise invalid(
                param, f"Each stop must have 1 to {MAX_STOP_LENGTH} characters.", "Shorten or remove it."
            )


def stream_options(param: str, value: Any) -> None:
    """``{"include_usage": bool}``; what else OpenAI allows there has no meaning here."""
    mapping(param, value)
    boolean(f"{param}.include_usage", value.get("include_usage", False))


def tools(param: str, value: Any) -> None:
    """A list of tool objects."""
    if not isinstance(value, list) or len(value) > MAX_TOOLS or not all(isinstance(t, dict) for t in value):
        raise invalid(param, f"'{param}' must be a list of at most {MAX_TOOLS} objects.", "Send such a list.")


def messages(param: str, value: Any) -> None:
    """OpenAI chat messages, text only."""
    if not isinstance(value, list) or not 0 < len(value) <= MAX_MESSAGES:
        raise invalid(param, f"'{param}' must be a list of 1 to {MAX_MESSAGES} messages.", "Send messages.")
    for index, message in enumerate(value):
        where = f"{param}[{index}]"
        if not isinstance(message, dict) or message.get("role") not in ROLES:
            raise invalid(
                where, f"'{where}' must be an object with a 'role'.", f"Roles are {', '.join(sorted(ROLES))}."
            )
        _content(f"{where}.content", message)


def _content(where: str, message: dict[str, Any]) -> None:
    content = message.get("content")
    if isinstance(content, str):
        return
    if content is None:
        if message["role"] == "assistant" and (message.get("tool_calls") or message.get("function_call")):
            return
        raise invalid(where, f"'{where}' is missing.", "Send text.", "missing_required_parameter")
    if not isinstance(content, list) or not content:
        raise invalid(where, f"'{where}' must be text or a list of text parts.", "Send text.", "invalid_type")
    for part in content:
        if not isinstance(part, dict) or part.get("type") != "text" or not isinstance(part.get("text"), str):
            raise invalid(where, "Only text parts can be answered here.", 'Send {"type": "text", "text": …}.')


def prompt(param: str, value: Any) -> None:
    """A text, a list of texts, a list of token ids, or a list of such lists."""
    if isinstance(value, str):
        return
    if isinstance(value, list) and value:
        if all(isinstance(v, str) for v in value) and len(value) <= MAX_PROMPTS:
            return
        if _token_ids(value):
            return
        if len(value) <= MAX_PROMPTS and all(isinstance(v, list) and v and _token_ids(v) for v in value):
            return
    raise invalid(
        param,
        f"'{param}' must be text, token ids, or a list of at most {MAX_PROMPTS} of one of these.",
        "Send fewer prompts, or mend the types.",
    )


def _token_ids(value: list[Any]) -> bool:
    return all(type(v) is int and 0 <= v < 2**31 for v in value)


SHARED: dict[str, Check] = {
    "temperature": number(0, 2),
    "top_p": number(0, 1),
    "n": integer(1, MAX_N),
    "stop": stop,
    "seed": integer(-(2**63), 2**63 - 1),
    "presence_penalty": number(-2, 2),
    "frequency_penalty": number(-2, 2),
    "stream": boolean,
    "stream_options": stream_options,
}


def metadata(param: str, value: Any) -> None:
    """At most 16 short texts by short names."""
    mapping(param, value)
    texts = all(isinstance(text, str) and len(text) <= 512 for text in value.values())
    if len(value) > MAX_METADATA or not texts or any(len(key) > 64 for key in value):
        raise invalid(
            param,
            f"'{param}' must hold at most {MAX_METADATA} texts of at most 512 characters, "
            "under names of at most 64.",
            "Send fewer or shorter ones.",
        )


KEPT: dict[str, Check] = {"store": boolean, "metadata": metadata}
"""OpenAI's fields that say what is to be kept of a request; no engine sees them."""

CHAT: dict[str, Check] = SHARED | {
    "messages": messages,
    "max_tokens": integer(1, MAX_TOKENS),
    "max_completion_tokens": integer(1, MAX_TOKENS),
    "logprobs": boolean,
    "top_logprobs": integer(0, 20),
    "tools": tools,
    "tool_choice": text_or_mapping,
    "parallel_tool_calls": boolean,
    "response_format": mapping,
}

COMPLETIONS: dict[str, Check] = SHARED | {
    "prompt": prompt,
    "max_tokens": integer(0, MAX_TOKENS),
    "logprobs": integer(0, 5),
    "echo": boolean,
}

IGNORED = frozenset(
    {
        "user",
        "service_tier",
        "safety_identifier",
        "prompt_cache_key",
        "prompt_cache_retention",
        "modalities",
        "verbosity",
    }
)
"""OpenAI's fields that change nothing here: accepted and dropped."""
