"""One HTTP/1.1 connection to an engine: bytes in, one response out, with back-pressure and deadlines.

``Connection`` is an ``asyncio.Protocol`` around httptools' parser. It carries one request at a time;
the pool in ``upstream`` decides which connection gets the next one.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import cast

import httptools

from graftwork.core.errors import Unavailable

HEAD_LIMIT = 64 * 1024
"""Bytes of status line and headers a response may have; also of trailers."""
INFORMATIONAL_LIMIT = 8
"""1xx answers tolerated before the real one."""
HIGH_WATER, LOW_WATER = 256 * 1024, 64 * 1024
"""Unread body bytes at which reading from the socket pauses, and goes on again."""

CLOSED = "upstream_closed"
TIMEOUT = "upstream_timeout"
PROTOCOL = "upstream_protocol_error"


class Connection(asyncio.Protocol):
    """A connection and the response now arriving on it.

    All failures are ``Unavailable`` with code ``upstream_closed``, ``upstream_timeout`` or
    ``upstream_protocol_error``; after one the connection is closed and never used again.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._transport: asyncio.Transport | None = None
        self._parser = httptools.HttpResponseParser(self)
        self._waiter: asyncio.Future[None] | None = None
        self._busy = False
        self.idle_since = 0.0
        self._reset()

    def _reset(self) -> None:
        self.status = 0
        self.headers: dict[bytes, bytes] = {}
        self.touched = False  # any byte of an answer arrived: from here on a retry is not safe
        self._fed = 0
        self._header_bytes = 0
        self._informational = 0
        self._head_done = False
        self._until_close = False
        self._complete = False
        self._keep_alive = False
        self._chunks: deque[bytes] = deque()
        self._unread = 0
        self._paused = False
        self._failure: Unavailable | None = None

    # -- for the pool

    @property
    def closed(self) -> bool:
        """Whether the socket is gone or going."""
        return self._transport is None or self._transport.is_closing()

    @property
    def reusable(self) -> bool:
        """Whether the answer was read to its end and the server keeps the connection open."""
        return self._complete and self._keep_alive and not self._chunks and not self.closed

    def start(self, request: bytes) -> None:
        """Send one whole request; the connection must be idle."""
        self._reset()
        self._busy = True
        if self._transport is None or self._transport.is_closing():
            self._failure = Unavailable("The engine closed the connection.", code=CLOSED)
            return
        self._transport.write(request)

    def park(self, now: float) -> None:
        """The answer was read; the connection is idle from now on."""
        self._busy = False
        self.idle_since = now

    def abort(self) -> None:
        """Close at once, whatever is under way; this is how an engine learns to stop generating."""
        if self._transport is not None:
            self._transport.abort()

    # -- for the reader of the response

    async def head(self, timeout: float) -> None:
        """Return once status and headers are known (``status``, ``headers``)."""
        while not self._head_done:
            self._check()
            await self._wait(timeout)

    async def chunk(self, timeout: float) -> bytes:
        """The next piece of the body as it arrived; ``b""`` at the end."""
        while not self._chunks:
            if self._complete:
                return b""
            self._check()
            await self._wait(timeout)
        data = b"".join(self._chunks) if len(self._chunks) > 1 else self._chunks[0]
        self._chunks.clear()
        self._unread = 0
        if self._paused and self._transport is not None and not self._transport.is_closing():
            self._paused = False
            self._transport.resume_reading()
        return data

    def _check(self) -> None:
        if self._failure is not None:
            raise self._failure

    async def _wait(self, timeout: float) -> None:
        waiter = self._waiter = self._loop.create_future()
        handle = self._loop.call_later(max(timeout, 0.0), self._expire)
        try:
            await waiter
        finally:
            handle.cancel()
            self._waiter = None

    def _expire(self) -> None:
        self._fail(Unavailable("The engine did not answer in time.", code=TIMEOUT))

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _fail(self, error: Unavailable) -> None:
        if self._failure is None and not self._complete:
            self._failure = error
        self.abort()
        self._wake()

    # -- asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The socket is open."""
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        """Parse; a byte that belongs to no request means the connection cannot be trusted."""
        if not self._busy or self._complete:
            self._keep_alive = False
            self.abort()
            return
        self.touched = True
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            self._fail(Unavailable(f"The engine's answer is not HTTP/1.1: {error}.", code=PROTOCOL))
            return
        if not self._head_done:  # an endless header line is seen by the parser only when it ends
            self._fed += len(data)
            self._limit_head(self._fed)
        self._wake()

    def _limit_head(self, size: int) -> None:
        if size > HEAD_LIMIT:
            self._fail(Unavailable("The engine's headers are too large.", code=PROTOCOL))

    def eof_received(self) -> None:
        """The server will send no more; the transport closes itself after this."""
        self._end()

    def connection_lost(self, exc: Exception | None) -> None:
        """The socket is gone."""
        if exc is None:
            self._end()
        self._transport = None
        if not self._complete and self._failure is None:
            self._failure = Unavailable("The engine closed the connection.", code=CLOSED)
        self._wake()

    def _end(self) -> None:
        if self._head_done and self._until_close and self._failure is None:
            self._complete = True
            self._wake()

    # -- httptools callbacks

    def on_message_begin(self) -> None:
        """A status line starts; after a complete answer it is one nobody asked for."""
        if self._complete:
            self._keep_alive = False
            self.abort()

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header, or a trailer once the head is done; both count against the limit."""
        self._header_bytes += len(name) + len(value) + 4
        self._limit_head(self._header_bytes)
        if not self._head_done:
            self.headers[name.lower()] = value

    def on_headers_complete(self) -> None:
        """Status and headers are known, unless this is a 1xx that precedes the answer."""
        if self._complete:
            return
        status = self._parser.get_status_code()
        if status < 200:
            self._informational += 1
            if status == 101 or self._informational > INFORMATIONAL_LIMIT:
                self._fail(Unavailable("The engine answered with 1xx only.", code=PROTOCOL))
            return
        if self._failure is not None:
            return
        self.status = status
        self._head_done = True
        chunked = b"chunked" in self.headers.get(b"transfer-encoding", b"").lower()
        bodiless = status in (204, 304)
        self._until_close = not (chunked or bodiless or b"content-length" in self.headers)

    def on_body(self, data: bytes) -> None:
        """A piece of the body."""
        if self._complete or self._failure is not None:
            return
        self._chunks.append(data)
        self._unread += len(data)
        if self._unread > HIGH_WATER and not self._paused and self._transport is not None:
            self._paused = True
            self._transport.pause_reading()

    def on_message_complete(self) -> None:
        """The answer is whole, unless it was a 1xx."""
        if not self._head_done or self._complete:
            if not self._complete:
                self.headers = {}
            return
        self._keep_alive = self._parser.should_keep_alive()
        self._complete = True
