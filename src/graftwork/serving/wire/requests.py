"""Bodies of requests: parsed strictly, numbers bounded, nothing that changes an answer ignored."""

from __future__ import annotations

from typing import Annotated, Any, TypeVar

import orjson
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from graftwork.core.errors import InvalidRequest

Json = dict[str, Any]
TokenId = Annotated[int, Field(ge=0, le=2**31 - 1)]
Stop = Annotated[str, Field(min_length=1, max_length=256)]

MAX_CHOICES = 8
MAX_PROMPTS = 64
MAX_NUMBER = 2**31 - 1


class _Body(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore", strict=True)


class StreamOptions(_Body):
    """What a stream carries beside text."""

    include_usage: bool = False
    continuous_usage_stats: bool = False
    """Running usage in every chunk, so that whoever meters loses nothing when the client leaves."""


class _Common(_Body):
    model: Annotated[str, Field(min_length=1, max_length=512)]
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=-1, le=MAX_NUMBER)] | None = None
    seed: Annotated[int, Field(ge=-(2**63), le=2**63 - 1)] | None = None
    stop: Stop | Annotated[list[Stop], Field(max_length=8)] | None = None
    n: Annotated[int, Field(ge=1, le=MAX_CHOICES)] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    frequency_penalty: float | None = None
    presence_penalty: float | None = None
    logit_bias: dict[str, float] | None = None
    ignore_eos: bool | None = None

    @property
    def stops(self) -> tuple[str, ...]:
        """Stop strings, none or several."""
        if self.stop is None:
            return ()
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop)


class ChatRequest(_Common):
    """``POST /v1/chat/completions``."""

    messages: Annotated[list[Json], Field(min_length=1, max_length=10_000)]
    max_tokens: Annotated[int, Field(ge=1, le=MAX_NUMBER)] | None = None
    max_completion_tokens: Annotated[int, Field(ge=1, le=MAX_NUMBER)] | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    tools: Annotated[list[Json], Field(max_length=128)] | None = None
    tool_choice: str | Json | None = None
    response_format: Json | None = None


class CompletionRequest(_Common):
    """``POST /v1/completions``: a text, token ids, or a list of either."""

    prompt: (
        str
        | Annotated[list[TokenId], Field(min_length=1)]
        | Annotated[list[str], Field(min_length=1, max_length=MAX_PROMPTS)]
        | Annotated[
            list[Annotated[list[TokenId], Field(min_length=1)]], Field(min_length=1, max_length=MAX_PROMPTS)
        ]
    )
    max_tokens: Annotated[int, Field(ge=0, le=MAX_NUMBER)] | None = None
    logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    echo: bool | None = None
    suffix: str | None = None
    best_of: int | None = None
    add_special_tokens: bool = True
    """Whether the tokenizer's own start token goes before a text."""

    @property
    def prompts(self) -> list[str | list[int]]:
        """The prompts as a list, however they were sent."""
        if isinstance(self.prompt, str):
            return [self.prompt]
        if isinstance(self.prompt[0], int):
            return [[t for t in self.prompt if isinstance(t, int)]]
        return [p for p in self.prompt if not isinstance(p, int)]


class AdapterRequest(_Body):
    """``POST /admin/adapters``."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$")]
    path: Annotated[str, Field(min_length=1, max_length=4096)]


Parsed = TypeVar("Parsed", bound=_Body)
Answerable = TypeVar("Answerable", ChatRequest, CompletionRequest)


def parse(cls: type[Parsed], data: bytes) -> Parsed:
    """A body as ``cls``.

    Raises:
        InvalidRequest: it is no JSON object, or a field is missing, malformed or out of range; names the
            first.
    """
    try:
        body = orjson.loads(data)
    except orjson.JSONDecodeError as error:
        raise InvalidRequest(f"The body is not JSON: {error}.", code="invalid_json") from error
    if not isinstance(body, dict):
        raise InvalidRequest("The body is not a JSON object.", code="invalid_json")
    try:
        return cls.model_validate(body)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        param = str(first["loc"][0]) if first["loc"] else None
        raise InvalidRequest(
            f"{param or 'body'}: {first['msg']}.",
            fix=f"Send {param!r} as the API reference describes it." if param else "",
            code="invalid_value" if first["type"] != "missing" else "missing_required_parameter",
            param=param,
        ) from error


def refuse_unsupported(request: ChatRequest | CompletionRequest) -> None:
    """Refuse fields whose effect this engine cannot give, rather than answer as if they were not there."""
    wanted: dict[str, bool] = {
        "frequency_penalty": bool(request.frequency_penalty),
        "presence_penalty": bool(request.presence_penalty),
        "logit_bias": bool(request.logit_bias),
    }
    if isinstance(request, ChatRequest):
        wanted["response_format"] = (request.response_format or {"type": "text"}).get("type") != "text"
        wanted["tool_choice"] = request.tool_choice not in (None, "none", "auto")
        if request.top_logprobs is not None and not request.logprobs:
            raise InvalidRequest(
                "top_logprobs is given without logprobs.",
                fix="Send logprobs: true with it.",
                code="invalid_value",
                param="top_logprobs",
            )
    else:
        wanted["suffix"] = bool(request.suffix)
        wanted["best_of"] = request.best_of not in (None, 1, request.n)
    for field, asked in wanted.items():
        if asked:
            raise InvalidRequest(
                f"This engine cannot do what {field!r} asks for.",
                fix="Leave the field out.",
                code="unsupported_parameter",
                param=field,
            )


def plain_messages(messages: list[Json]) -> list[Json]:
    """Messages as templates want them: content as one text.

    Raises:
        InvalidRequest: a message without role, or content that is no text.
    """
    return [_plain(index, message) for index, message in enumerate(messages)]


def _plain(index: int, message: Json) -> Json:
    def bad(what: str) -> InvalidRequest:
        return InvalidRequest(
            f"messages[{index}] {what}.",
            fix='Send {"role": ..., "content": "text"} for each message.',
            code="invalid_value",
            param="messages",
        )

    if not isinstance(message.get("role"), str):
        raise bad("has no role")
    calls = message.get("tool_calls")
    if calls is not None and not (isinstance(calls, list) and all(isinstance(call, dict) for call in calls)):
        raise bad("has tool_calls that are no list of objects")
    content = message.get("content")
    if content is None:  # left out beside tool calls, as in training: a template may tell that from no words
        return message if calls else {**message, "content": ""}
    if isinstance(content, str):
        return message
    if not isinstance(content, list):
        raise bad("has a content that is neither text nor a list of parts")
    texts: list[str] = []
    for part in content:
        if not isinstance(part, dict) or part.get("type") != "text" or not isinstance(part.get("text"), str):
            raise bad("has a part that is not text; this base model reads text only")
        texts.append(part["text"])
    return {**message, "content": "".join(texts)}
