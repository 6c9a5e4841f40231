"""From a caller's bytes to what an engine gets: parsed once, checked, and rebuilt field by field."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import orjson

from graftwork.core.errors import InvalidRequest
from graftwork.gateway import fields
from graftwork.gateway.fields import invalid

BODY_LIMIT = 8 * 1024 * 1024
"""Bytes a request body may have."""
MODEL_LIMIT = 512
"""Characters a model name may have."""
BYTES_PER_TOKEN = 4
"""For estimates before the engine has counted."""


@dataclass(frozen=True, slots=True)
class Route:
    """One inference route: where it is, and what differs from the others."""

    name: str
    """As it stands in the ledger."""
    path: str
    prefix: str
    """Of the answer's id."""
    checks: dict[str, fields.Check]
    required: str
    default_output: int
    """Tokens reserved per choice when the caller sets no limit."""


CHAT = Route("chat.completions", "/v1/chat/completions", "chatcmpl-", fields.CHAT, "messages", 1024)
COMPLETIONS = Route("completions", "/v1/completions", "cmpl-", fields.COMPLETIONS, "prompt", 16)
ROUTES = {route.path: route for route in (CHAT, COMPLETIONS)}


@dataclass(frozen=True, slots=True)
class Asked:
    """A checked request, not yet bound to a model."""

    route: Route
    model: str
    """The name as the caller sent it; answers carry it back."""
    stream: bool
    wants_usage: bool
    """Whether a streaming caller asked for the usage chunk."""
    fields: dict[str, Any]
    prompt_tokens: int
    """Estimate: bytes / 4, or exact for token ids."""
    output_tokens: int
    """Most tokens that will be generated, over all choices and prompts."""
    store: bool | None = None
    """Whether the caller wants the request kept, or not; None: it does not say."""
    metadata: dict[str, str] | None = None
    """What a kept request is marked with."""

    def body(self, engine_model: str) -> bytes:
        """The JSON an engine gets, with its own name for the model."""
        return orjson.dumps(self.fields | {"model": engine_model})


def parse(route: Route, body: bytes) -> Asked:
    """Check a request.

    Raises:
        InvalidRequest: not JSON, a field missing, unknown or out of bounds; ``param`` names it.
    """
    data = _load(body)
    model = data.pop("model", None)
    if not isinstance(model, str) or not 0 < len(model) <= MODEL_LIMIT:
        raise invalid("model", "'model' must name a model.", "Send one.", "missing_required_parameter")
    marks = _marks(data)
    kept = _allowed(route, data)
    if route.required not in kept:
        raise invalid(
            route.required, f"'{route.required}' is missing.", "Send it.", "missing_required_parameter"
        )
    stream = kept.get("stream", False)
    options = kept.pop("stream_options", None) or {}
    if options and not stream:
        raise invalid("stream_options", "'stream_options' needs 'stream'.", "Set stream to true.")
    if stream:
        kept["stream_options"] = {"include_usage": True, "continuous_usage_stats": True}
    if "max_completion_tokens" in kept:  # the newer name for the same; every engine knows the older
        kept["max_tokens"] = kept.pop("max_completion_tokens")
    prompts = _prompts(kept.get("prompt"))
    limit = kept.get("max_tokens", route.default_output)
    return Asked(
        route=route,
        model=model,
        stream=stream,
        wants_usage=bool(options.get("include_usage", False)),
        fields=kept,
        prompt_tokens=_prompt_tokens(kept, len(body)),
        output_tokens=limit * kept.get("n", 1) * prompts,
        **marks,
    )


def _marks(data: dict[str, Any]) -> dict[str, Any]:
    """Takes ``store`` and ``metadata`` out of a request; metadata counts only with what may be kept."""
    found: dict[str, Any] = {}
    for name, check in fields.KEPT.items():
        value = data.pop(name, None)
        if value is not None and (name == "store" or found.get("store") is not False):
            check(name, value)
            found[name] = value
    return found


def _load(body: bytes) -> dict[str, Any]:
    try:
        data = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise InvalidRequest(
            f"The body is not JSON: {error}.", fix="Send a JSON object in UTF-8.", code="invalid_json"
        ) from error
    if not isinstance(data, dict):
        raise InvalidRequest(
            "The body is not a JSON object.", fix="Send an object with 'model' in it.", code="invalid_json"
        )
    return data


def _allowed(route: Route, data: dict[str, Any]) -> dict[str, Any]:
    kept: dict[str, Any] = {}
    for name, value in data.items():
        check = route.checks.get(name)
        if check is None:
            if name in fields.IGNORED or value is None:
                continue
            raise invalid(
                name[:64],
                f"Unrecognized request argument supplied: {name[:64]}.",
                "Leave it out.",
                "unknown_parameter",
            )
        if value is not None:
            check(name, value)
            kept[name] = value
    return kept


def _prompts(prompt: Any) -> int:
    """How many prompts a completion request holds."""
    return len(prompt) if isinstance(prompt, list) and not isinstance(prompt[0], int) else 1


def _prompt_tokens(kept: dict[str, Any], size: int) -> int:
    prompt = kept.get("prompt")
    if isinstance(prompt, list) and isinstance(prompt[0], int):
        return len(prompt)
    return -(-size // BYTES_PER_TOKEN)
