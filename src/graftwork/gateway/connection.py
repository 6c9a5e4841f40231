"""One HTTP/1.1 connection to an engine: bytes in, one response out, with back-pressure and deadlines.

``Incoming`` is one response as httptools parses it; ``Connection`` is the socket, carrying one request at a
time. The pool in ``upstream`` decides which connection gets the next one.
"""

from __future__ import annotations

import asyncio
from collections import deque
from functools import partial
from typing import cast

import httptools

from graftwork.core.errors import Unavailable

HEAD_LIMIT = 64 * 1024
"""Bytes of status line and headers a response may have; trailers count too."""
INFORMATIONAL_LIMIT = 8
"""1xx answers tolerated before the real one."""
HIGH_WATER = 256 * 1024
"""Unread body bytes at which reading from the socket pauses until they are read."""

CLOSED = "upstream_closed"
TIMEOUT = "upstream_timeout"
PROTOCOL = "upstream_protocol_error"


class Incoming:
    """One response, fed with bytes as they come. The ``on_…`` methods are httptools' callbacks.

    Attributes:
        status: of the final response; 1xx are passed over.
        headers: by lower-case name.
        chunks: body bytes not read yet; ``unread`` is their number.
        head_done: status and headers are known.
        complete: the whole response was received.
        keep_alive: the server will take another request after it.
        broken: why this is no sane response.
        touched: any byte of it arrived; from here on the request must not be sent again.
    """

    def __init__(self) -> None:
        self.status = 0
        self.headers: dict[bytes, bytes] = {}
        self.chunks: deque[bytes] = deque()
        self.unread = 0
        self.head_done = self.complete = self.keep_alive = self.touched = False
        self.broken: str | None = None
        self._parser = httptools.HttpResponseParser(self)
        self._until_close = False
        self._fed = self._header_bytes = self._informational = 0

    def feed(self, data: bytes) -> None:
        """Parse; look at ``broken`` afterwards."""
        self.touched = True
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            self.broken = self.broken or f"it is not HTTP/1.1: {error}"
        if not self.head_done:  # an endless header line is seen by the parser only when it ends
            self._fed += len(data)
            self._limit_head(self._fed)

    def end(self) -> None:
        """The server closed the connection in order: the end of a body without a length."""
        if self.head_done and self._until_close and self.broken is None:
            self.complete = True

    def take(self) -> bytes:
        """All body bytes that are there."""
        data = b"".join(self.chunks) if len(self.chunks) > 1 else self.chunks[0]
        self.chunks.clear()
        self.unread = 0
        return data

    def _limit_head(self, size: int) -> None:
        if size > HEAD_LIMIT:
            self.broken = self.broken or "its headers are too large"

    def on_message_begin(self) -> None:
        """A status line starts; after a complete answer it is one nobody asked for."""
        if self.complete:
            self.keep_alive = False

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header, or a trailer once the head is done; both count against the limit."""
        self._header_bytes += len(name) + len(value) + 4
        self._limit_head(self._header_bytes)
        if not self.head_done:
            self.headers[name.lower()] = value

    def on_headers_complete(self) -> None:
        """Status and headers are known, unless this is a 1xx that precedes the answer."""
        status = self._parser.get_status_code()
        if self.complete or self.broken is not None:
            return
        if status < 200:
            self._informational += 1
            if status == 101 or self._informational > INFORMATIONAL_LIMIT:
                self.broken = "it has 1xx only"
            return
        self.status = status
        self.head_done = True
        chunked = b"chunked" in self.headers.get(b"transfer-encoding", b"").lower()
        bodiless = status in (204, 304)
        self._until_close = not (chunked or bodiless or b"content-length" in self.headers)

    def on_body(self, data: bytes) -> None:
        """A piece of the body."""
        if not self.complete and self.broken is None:
            self.chunks.append(data)
            self.unread += len(data)

    def on_message_complete(self) -> None:
        """The answer is whole, unless it was a 1xx."""
        if self.complete:
            return
        if self.head_done:
            self.keep_alive = self._parser.should_keep_alive()
            self.complete = True
        else:
            self.headers = {}


class Connection(asyncio.Protocol):
    """A connection and the response now arriving on it.

    All failures are ``Unavailable`` with code ``upstream_closed``, ``upstream_timeout`` or
    ``upstream_protocol_error``; after one the connection is closed and never used again.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._transport: asyncio.Transport | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._failure: Unavailable | None = None
        self._busy = False
        self._paused = False
        self.incoming = Incoming()
        self.idle_since = 0.0

    @property
    def closed(self) -> bool:
        """Whether the socket is gone or going."""
        return self._transport is None or self._transport.is_closing()

    @property
    def reusable(self) -> bool:
        """Whether the answer was read to its end and the server keeps the connection open."""
        answer = self.incoming
        return answer.complete and answer.keep_alive and not answer.chunks and not self.closed

    def start(self, request: bytes) -> None:
        """Send one whole request; the connection must be idle."""
        self.incoming = Incoming()
        self._failure = None
        self._busy = True
        if self._transport is None or self._transport.is_closing():
            self._failure = Unavailable("The engine closed the connection.", code=CLOSED)
        else:
            self._transport.write(request)

    def park(self, now: float) -> None:
        """The answer was read; the connection is idle from now on."""
        self._busy = False
        self.idle_since = now

    def abort(self) -> None:
        """Close at once, whatever is under way; this is how an engine learns to stop generating."""
        if self._transport is not None:
            self._transport.abort()

    async def head(self, timeout: float) -> None:
        """Return once status and headers are known (``incoming``)."""
        while not self.incoming.head_done:
            await self._wait(timeout)

    async def chunk(self, timeout: float) -> bytes:
        """The next piece of the body as it arrived; ``b""`` at the end."""
        while not self.incoming.chunks:
            if self.incoming.complete:
                return b""
            await self._wait(timeout)
        data = self.incoming.take()
        if self._paused and self._transport is not None and not self._transport.is_closing():
            self._paused = False
            self._transport.resume_reading()
        return data

    async def _wait(self, timeout: float) -> None:
        """Return when something has changed; raise what went wrong."""
        if self._failure is not None:
            raise self._failure
        waiter = self._waiter = self._loop.create_future()
        late = Unavailable("The engine did not answer in time.", code=TIMEOUT)
        handle = self._loop.call_later(max(timeout, 0.0), partial(self._fail, late))
        try:
            await waiter
        finally:
            handle.cancel()
            self._waiter = None

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _fail(self, error: Unavailable) -> None:
        if self._failure is None and not self.incoming.complete:
            self._failure = error
        self.abort()
        self._wake()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The socket is open."""
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        """Parse; a byte that belongs to no request means the connection cannot be trusted."""
        answer = self.incoming
        if not self._busy or answer.complete:
            answer.keep_alive = False
            self.abort()
            return
        answer.feed(data)
        if answer.broken is not None:
            self._fail(Unavailable(f"The engine's answer is refused: {answer.broken}.", code=PROTOCOL))
        elif answer.unread > HIGH_WATER and not self._paused and self._transport is not None:
            self._paused = True
            self._transport.pause_reading()
        self._wake()

    def eof_received(self) -> None:
        """The server will send no more; the transport closes itself after this."""
        self.incoming.end()
        self._wake()

    def connection_lost(self, exc: Exception | None) -> None:
        """The socket is gone."""
        if exc is None:
            self.incoming.end()
        self._transport = None
        if not self.incoming.complete and self._failure is None:
            self._failure = Unavailable("The engine closed the connection.", code=CLOSED)
        self._wake()
