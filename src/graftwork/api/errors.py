"""The outermost layer: a request id on every answer, a bounded body, OpenAI's envelope for every error.

Here alone any exception is caught: what is no error of ours is logged with its request id and is a 500.
"""

from __future__ import annotations

import logging
import re
from typing import Any, cast

import orjson
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from graftwork.core.errors import (
    GraftworkError,
    InvalidRequest,
    MethodNotAllowed,
    NotFound,
    RequestTooLarge,
    envelope,
    http_status,
)
from graftwork.gateway import new_request_id

log = logging.getLogger(__name__)

JSON_LIMIT = 8 * 1024 * 1024
UPLOAD_LIMIT = 520 * 1024 * 1024
"""A 512 MB file and its multipart wrapping."""
_FIELD = re.compile(r"(?!(int|float|str|bool|tuple)$)\w+|\d+")
"""Parts of a location that are fields; the others name the branch of a union (``constrained-int``)."""
UPLOADS = ("/v1/files", "/api/datasets/check", "/api/datasets/stats")


class ErrorMiddleware:
    """ASGI middleware around every route."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        answer = _Answer(send, new_request_id())
        limit = UPLOAD_LIMIT if scope["path"] in UPLOADS else JSON_LIMIT
        try:
            await self._app(scope, _bounded(receive, limit), answer)
        except GraftworkError as error:
            await answer.fail(error)
        except Exception:
            log.exception("request %s %s %s failed", answer.request_id, scope["method"], scope["path"])
            await answer.fail(
                GraftworkError(
                    "The server failed on this request.",
                    fix=f"Try again; if it persists, look for {answer.request_id} in the server's log.",
                )
            )


class _Answer:
    """``send`` that adds the request id and knows whether the answer has begun."""

    def __init__(self, send: Send, request_id: str) -> None:
        self._send = send
        self._started = False
        self.request_id = request_id

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._started = True
            message["headers"] = [*message.get("headers", []), (b"x-request-id", self.request_id.encode())]
        await self._send(message)

    async def fail(self, error: GraftworkError) -> None:
        """Answer with an error, unless an answer has begun; then the broken connection says it."""
        if self._started:
            return
        response = error_response(error)
        headers = list(response.raw_headers)
        await self({"type": "http.response.start", "status": response.status_code, "headers": headers})
        await self({"type": "http.response.body", "body": response.body})


def error_response(error: GraftworkError) -> Response:
    """OpenAI's envelope of an error."""
    return Response(orjson.dumps(envelope(error)), http_status(error), media_type="application/json")


def install(app: FastAPI) -> None:
    """Give a FastAPI app these error answers."""
    app.add_middleware(ErrorMiddleware)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _http)


async def _invalid(_: Request, error: Exception) -> Response:
    return error_response(_explain(cast(RequestValidationError, error).errors()[0]))


def _explain(first: Any) -> InvalidRequest:
    """One error of pydantic's as one of ours."""
    where = [str(part) for part in first["loc"][1:] if _FIELD.fullmatch(str(part))]
    if first["type"] == "json_invalid":
        return InvalidRequest("The body is not JSON.", fix="Send a JSON object.", code="invalid_json")
    param = ".".join(where) or None
    if first["type"] == "missing":
        return InvalidRequest(
            f"Missing required parameter: {param or 'the body'}.",
            fix="Send it.",
            code="missing_required_parameter",
            param=param,
        )
    if first["type"] == "extra_forbidden":
        return InvalidRequest(
            f"{param} is not a known field.",
            fix="Leave it out, or mend its name.",
            code="unknown_parameter",
            param=param,
        )
    return InvalidRequest(
        f"{param or 'The body'}: {first['msg']}.",
        fix="Mend or leave out this field.",
        code="invalid_value",
        param=param,
    )


async def _http(request: Request, error: Exception) -> Response:
    error = cast(HTTPException, error)
    if isinstance(error.__cause__, GraftworkError):  # FastAPI wraps what is raised while it reads a body
        return error_response(error.__cause__)
    call = f"{request.method} {request.url.path}"
    if error.status_code == 404:
        return error_response(
            NotFound(f"There is no {call}.", fix="See /openapi.json for what there is.", code="unknown_url")
        )
    if error.status_code == 405:
        response = error_response(MethodNotAllowed(f"{call} is not allowed.", fix="Use another method."))
        response.headers.update(error.headers or {})
        return response
    return error_response(InvalidRequest(f"{error.detail}.", fix="Mend the request.", code="invalid_request"))


def _bounded(receive: Receive, limit: int) -> Receive:
    size = 0

    async def bounded() -> Message:
        nonlocal size
        message = await receive()
        size += len(message.get("body", b""))
        if size > limit:
            raise RequestTooLarge(
                f"The request body is larger than {limit // (1024 * 1024)} MiB.", fix="Send less."
            )
        return message

    return bounded
