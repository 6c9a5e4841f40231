"""One HTTP exchange over bare ASGI: the body in, bounded; an answer, a stream or an error envelope out."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from types import TracebackType
from typing import Any, Self

import orjson

from graftwork.core.errors import (
    GraftworkError,
    PlatformError,
    RateLimited,
    RequestTooLarge,
    Unavailable,
    envelope,
    http_status,
)

Message = MutableMapping[str, Any]
Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Header = tuple[bytes, bytes]

_JSON: Header = (b"content-type", b"application/json")
_EVENTS: list[Header] = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),
]


class CallerLeft(Exception):
    """The caller hung up. Not an error: what was used until then is billed."""


class Exchange:
    """A request and its answer."""

    def __init__(self, scope: Scope, receive: Receive, send: Send, request_id: str) -> None:
        self.scope = scope
        self.receive = receive
        self.request_id = request_id
        self._send = send
        self.started = False
        self._streaming = False

    def header(self, name: bytes) -> bytes | None:
        """The first header of that lower-case name."""
        for key, value in self.scope["headers"]:
            if key == name:
                return value
        return None

    async def body(self, limit: int) -> bytes:
        """The whole request body.

        Raises:
            RequestTooLarge: more than ``limit`` bytes, announced or sent.
            CallerLeft: the caller hung up before its end.
        """
        announced = self.header(b"content-length") or b"0"
        if announced.isdigit() and int(announced) > limit:
            raise _too_large(limit)
        pieces: list[bytes] = []
        size = 0
        while True:
            message = await self.receive()
            if message["type"] == "http.disconnect":
                raise CallerLeft
            piece = message.get("body", b"")
            size += len(piece)
            if size > limit:
                raise _too_large(limit)
            pieces.append(piece)
            if not message.get("more_body", False):
                return b"".join(pieces)

    async def answer(self, status: int, body: bytes, headers: list[Header] | None = None) -> None:
        """Send a whole JSON answer."""
        length = (b"content-length", b"%d" % len(body))
        await self._start(status, [_JSON, length, *(headers or [])])
        await self._send({"type": "http.response.body", "body": body})

    async def stream(self, piece: bytes, headers: list[Header]) -> None:
        """Send a piece of an event stream; the first one sends the head too."""
        if not self._streaming:
            self._streaming = True
            await self._start(200, [*_EVENTS, *headers])
        await self._send({"type": "http.response.body", "body": piece, "more_body": True})

    async def end(self, piece: bytes, headers: list[Header]) -> None:
        """Send the last piece of an event stream."""
        await self.stream(piece, headers)
        await self._send({"type": "http.response.body", "body": b""})

    async def fail(self, error: GraftworkError) -> None:
        """Send OpenAI's error envelope, as a last event where a stream has begun."""
        body = orjson.dumps(envelope(error))
        if self._streaming:
            await self._send(
                {"type": "http.response.body", "body": b"data: " + body + b"\n\n", "more_body": True}
            )
            await self._send({"type": "http.response.body", "body": b""})
        elif not self.started:
            await self.answer(http_status(error), body, _hints(error))

    async def _start(self, status: int, headers: list[Header]) -> None:
        self.started = True
        known: Header = (b"x-request-id", self.request_id.encode())
        await self._send({"type": "http.response.start", "status": status, "headers": [*headers, known]})


class Watch:
    """While it is entered, the running task is cancelled when the caller hangs up, and ``CallerLeft`` raised.

    Left before the last byte is sent: servers report a finished answer as a disconnect too.
    """

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._left = False

    async def __aenter__(self) -> Self:
        task = asyncio.current_task()
        if task is None:
            raise PlatformError("A watch needs a task to cancel.")
        self._task = task
        self._watcher = asyncio.create_task(self._watch())
        return self

    async def _watch(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self._left = True
        self._task.cancel()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._watcher.cancel()
        if self._left and kind is asyncio.CancelledError and self._task.uncancel() == 0:
            raise CallerLeft from error


def _hints(error: GraftworkError) -> list[Header]:
    if isinstance(error, Unavailable | RateLimited):
        seconds = int(error.details.get("retry_after", 1))
        return [(b"retry-after", b"%d" % max(seconds, 1))]
    return []


def _too_large(limit: int) -> RequestTooLarge:
    return RequestTooLarge(
        f"The request body is larger than {limit // (1024 * 1024)} MiB.",
        fix="Send less, or split the request.",
    )
