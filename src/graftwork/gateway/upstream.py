"""The gateway's HTTP/1.1 client: a keep-alive pool per origin on asyncio and httptools.

Small on purpose. General-purpose clients cost several times the CPU of everything else the gateway does; this
one knows what an engine needs: POST with a body, answers plain or chunked, deadlines, early close.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections import deque
from dataclasses import dataclass
from types import TracebackType
from typing import NamedTuple, Self
from urllib.parse import urlsplit

from graftwork.core.errors import PlatformError, Unavailable
from graftwork.gateway.connection import CLOSED, TIMEOUT, Connection


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Seconds: to connect (and to get a free slot), to the first byte, between bytes, and in all."""

    connect: float = 5.0
    first_byte: float = 120.0
    idle: float = 60.0
    total: float = 600.0


class Origin(NamedTuple):
    """Where connections go."""

    host: str
    port: int
    tls: bool


def split_url(url: str) -> tuple[Origin, str]:
    """Origin and path prefix (no trailing slash) of an engine's URL.

    Raises:
        PlatformError: not an http(s) URL.
    """
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise PlatformError(f"An engine's URL must be http or https, not {url!r}.", code="bad_engine_url")
    tls = parts.scheme == "https"
    return Origin(parts.hostname, parts.port or (443 if tls else 80), tls), parts.path.rstrip("/")


class Response:
    """An answer whose head has arrived; an async context manager that gives the connection back.

    Leaving it before the body's end closes the connection, which tells the engine to stop.
    """

    def __init__(self, pool: Pool, connection: Connection, idle: float, deadline: float) -> None:
        self._pool = pool
        self._connection = connection
        self._idle = idle
        self._deadline = deadline
        self._released = False
        self.status = connection.incoming.status
        self.headers = connection.incoming.headers

    async def chunk(self) -> bytes:
        """The next piece of the body, ``b""`` at its end.

        Raises:
            Unavailable: closed early, silent for too long, or not HTTP.
        """
        left = self._deadline - asyncio.get_running_loop().time()
        return await self._connection.chunk(min(self._idle, left))

    async def read(self, limit: int) -> bytes:
        """The whole body.

        Raises:
            Unavailable: as ``chunk``; also when the body is longer than ``limit`` bytes.
        """
        pieces: list[bytes] = []
        size = 0
        while piece := await self.chunk():
            size += len(piece)
            if size > limit:
                raise Unavailable("The engine's answer is too large.", code="upstream_protocol_error")
            pieces.append(piece)
        return b"".join(pieces)

    def close(self) -> None:
        """Give the connection back, or close it if the body was not read to its end."""
        if not self._released:
            self._released = True
            self._pool.release(self._connection)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class Pool:
    """Connections to one origin: idle ones last in, first out, and a cap on all of them."""

    def __init__(self, origin: Origin, *, max_connections: int, idle_seconds: float) -> None:
        self._origin = origin
        self._idle: deque[Connection] = deque()
        self._idle_seconds = idle_seconds
        self._slots = asyncio.Semaphore(max_connections)
        self._tls = ssl.create_default_context() if origin.tls else None

    async def acquire(self, timeout: float, *, fresh: bool) -> tuple[Connection, bool]:
        """A connection, and whether it has served before. ``fresh`` leaves idle ones alone."""
        try:
            async with asyncio.timeout(timeout):
                await self._slots.acquire()
                opened = False
                try:
                    connection = None if fresh else self._reuse()
                    reused = connection is not None
                    connection = connection or await self._open()
                    opened = True
                finally:
                    if not opened:
                        self._slots.release()
        except TimeoutError as error:
            raise Unavailable("The engine could not be reached in time.", code=TIMEOUT) from error
        except OSError as error:
            raise Unavailable("The engine cannot be reached.", code="upstream_unreachable") from error
        return connection, reused

    def _reuse(self) -> Connection | None:
        now = asyncio.get_running_loop().time()
        while self._idle:
            connection = self._idle.pop()
            if not connection.closed and now - connection.idle_since < self._idle_seconds:
                return connection
            connection.abort()
        return None

    async def _open(self) -> Connection:
        loop = asyncio.get_running_loop()
        _, protocol = await loop.create_connection(
            lambda: Connection(loop), self._origin.host, self._origin.port, ssl=self._tls
        )
        return protocol

    def release(self, connection: Connection) -> None:
        """Take a connection back: kept if its answer was read whole, closed otherwise."""
        if connection.reusable:
            connection.park(asyncio.get_running_loop().time())
            self._idle.append(connection)
        else:
            connection.abort()
        self._slots.release()

    def close(self) -> None:
        """Close the idle connections."""
        while self._idle:
            self._idle.pop().abort()


class UpstreamClient:
    """Requests to engines over pooled connections. One per event loop."""

    def __init__(
        self,
        timeouts: Timeouts | None = None,
        *,
        max_connections: int = 512,
        idle_seconds: float = 20.0,
    ) -> None:
        self.timeouts = timeouts or Timeouts()
        self._max_connections = max_connections
        self._idle_seconds = idle_seconds
        self._pools: dict[Origin, Pool] = {}

    async def post(self, url: str, path: str, body: bytes, *, token: str | None) -> Response:
        """POST JSON and return the answer once its head is here; use it as an async context manager.

        A request is sent a second time only if it went out on a reused connection that died before any byte
        of an answer: then the server had closed it while it was idle.

        Raises:
            Unavailable: unreachable, closed early, too slow, or not HTTP.
        """
        origin, prefix = split_url(url)
        pool = self._pool(origin)
        request = _request(origin, prefix + path, body, token)
        deadline = asyncio.get_running_loop().time() + self.timeouts.total
        with contextlib.suppress(_DiedIdle):
            return await self._attempt(pool, request, deadline, fresh=False)
        return await self._attempt(pool, request, deadline, fresh=True)

    async def _attempt(self, pool: Pool, request: bytes, deadline: float, *, fresh: bool) -> Response:
        connection, reused = await pool.acquire(self.timeouts.connect, fresh=fresh)
        answered = False
        try:
            connection.start(request)
            left = deadline - asyncio.get_running_loop().time()
            await connection.head(min(self.timeouts.first_byte, left))
            answered = True
        except Unavailable as error:
            if reused and error.code == CLOSED and not connection.incoming.touched:
                raise _DiedIdle from error
            raise
        finally:
            if not answered:
                connection.abort()
                pool.release(connection)
        return Response(pool, connection, self.timeouts.idle, deadline)

    def _pool(self, origin: Origin) -> Pool:
        pool = self._pools.get(origin)
        if pool is None:
            pool = Pool(origin, max_connections=self._max_connections, idle_seconds=self._idle_seconds)
            self._pools[origin] = pool
        return pool

    def close(self) -> None:
        """Close what is idle; connections in use close when their responses are left."""
        for pool in self._pools.values():
            pool.close()
        self._pools.clear()


class _DiedIdle(Exception):
    pass


def _request(origin: Origin, path: str, body: bytes, token: str | None) -> bytes:
    host = f"[{origin.host}]" if ":" in origin.host else origin.host
    head = f"POST {path} HTTP/1.1\r\nhost: {host}:{origin.port}\r\ncontent-type: application/json\r\n"
    if token is not None:
        head += f"authorization: Bearer {token}\r\n"
    head += f"content-length: {len(body)}\r\n"
    if head.count("\r\n") != (5 if token is not None else 4) or "\n" in head.replace("\r\n", ""):
        raise PlatformError("An engine's URL or token holds a line break.", code="bad_engine_url")
    return head.encode("latin-1") + b"\r\n" + body
