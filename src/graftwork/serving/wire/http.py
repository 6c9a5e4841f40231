"""The HTTP plumbing of an engine: bearer token, bodies, envelopes, events, and clients that leave."""

from __future__ import annotations

import asyncio
import hmac
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from typing import Any, TypeVar

import orjson
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from graftwork.core.errors import (
    GraftworkError,
    InvalidRequest,
    PlatformError,
    Unauthorized,
    Unavailable,
    envelope,
    http_status,
)

Json = dict[str, Any]
Result = TypeVar("Result")
Handler = Callable[[Request], Awaitable[Response]]

MAX_BODY = 16 * 1024 * 1024
LARGE_BODY = 16 * 1024
"""Bytes from which on a body is worked on beside the loop: on a busy core a mebibyte of text took 0.8 s."""
RETRY_AFTER = "1"
"""Seconds a client should wait when the queue is full: about how long a slot takes to come free."""


def json_response(body: Json, status: int = 200) -> Response:
    """A JSON answer."""
    return Response(orjson.dumps(body), status_code=status, media_type="application/json")


def error_response(error: GraftworkError) -> Response:
    """OpenAI's envelope, with ``Retry-After`` when waiting helps."""
    response = json_response(envelope(error), http_status(error))
    if isinstance(error, Unavailable):
        response.headers["retry-after"] = RETRY_AFTER
    return response


async def on_error(_: Request, error: Exception) -> Response:
    """Starlette's handler: errors of our tree as they are, others as a bug of ours (Starlette logs those)."""
    if isinstance(error, GraftworkError):
        return error_response(error)
    return error_response(PlatformError("The engine failed on this request.", fix="See its log."))


async def body_of(request: Request) -> bytes:
    """The whole body.

    Raises:
        InvalidRequest: it is larger than ``MAX_BODY``.
    """
    parts: list[bytes] = []
    size = 0
    async for part in request.stream():
        size += len(part)
        if size > MAX_BODY:
            raise InvalidRequest(
                f"The body is larger than {MAX_BODY} bytes.", fix="Send less.", code="body_too_large"
            )
        parts.append(part)
    return b"".join(parts)


async def prepared(size: int, make: Callable[[], Result]) -> Result:
    """What ``make`` makes of a body of ``size`` bytes: beside the event loop when the body is large.

    Rendering and tokenizing it takes time, in which nobody else's answer would move.
    """
    return make() if size <= LARGE_BODY else await asyncio.to_thread(make)


class BearerAuth:
    """ASGI middleware: every route asks for the one token of this engine."""

    def __init__(self, app: ASGIApp, token: str) -> None:
        self._app = app
        self._expected = f"Bearer {token}".encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or answer 401."""
        if scope["type"] == "http":
            given = dict(scope["headers"]).get(b"authorization", b"")
            if not hmac.compare_digest(given, self._expected):
                error = Unauthorized("The engine's token is missing or wrong.", code="invalid_engine_token")
                await error_response(error)(scope, receive, send)
                return
        await self._app(scope, receive, send)


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def unless_gone(request: Request, work: Coroutine[Any, Any, Result]) -> Result | None:
    """The result of ``work``; None, with the work cancelled, when the client left before."""
    task = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(_gone(request.receive))
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        return task.result() if task.done() else None
    finally:
        await _end(task)
        await _end(gone)


async def _end(task: asyncio.Future[Any]) -> None:
    if not task.done():
        task.cancel()
        await asyncio.wait({task})


class EventStream(Response):
    """Server-sent events of ``data: <json>``, then ``[DONE]``; stops its source as soon as the client leaves.

    An error of our tree on the way becomes an event ``{"error": ...}`` without ``[DONE]`` behind it, so that
    a broken answer is never taken for a whole one.
    """

    media_type = "text/event-stream"

    def __init__(self, events: AsyncIterator[Json], on_end: Callable[[], None]) -> None:
        """Send ``events``; ``on_end`` is called once however the answer ends, also before its first event."""
        super().__init__()
        self._events = events
        self._on_end = on_end

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the events, as an ASGI application."""
        headers = [(b"content-type", b"text/event-stream; charset=utf-8"), (b"cache-control", b"no-cache")]
        sending = asyncio.ensure_future(self._send(send, headers))
        gone = asyncio.ensure_future(_gone(receive))
        try:
            await asyncio.wait({sending, gone}, return_when=asyncio.FIRST_COMPLETED)
            if sending.done():
                sending.result()
        finally:
            self._on_end()
            await _end(sending)
            await _end(gone)

    async def _send(self, send: Send, headers: list[tuple[bytes, bytes]]) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        try:
            async for event in self._events:
                await _part(send, b"data: " + orjson.dumps(event) + b"\n\n")
            await _part(send, b"data: [DONE]\n\n")
        except GraftworkError as error:
            await _part(send, b"data: " + orjson.dumps(envelope(error)) + b"\n\n")
        await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _part(send: Send, data: bytes) -> None:
    await send({"type": "http.response.body", "body": data, "more_body": True})
