"""Running the edge: uvicorn on uvloop and httptools, stopped gracefully by SIGTERM or Ctrl-C."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
import threading
from collections.abc import Callable, Iterator

import uvicorn

from graftwork.api.app import build
from graftwork.api.platform import Platform
from graftwork.core.errors import InvalidRequest
from graftwork.gateway import GatewaySettings

GRACE = 10
"""Seconds that answers in flight get after the signal."""
SIGNALS = (signal.SIGTERM, signal.SIGINT)


class _Server(uvicorn.Server):
    """Says when it listens, and ends by a signal without passing it on: the platform closes after it."""

    def __init__(self, config: uvicorn.Config, listening: Callable[[], None]) -> None:
        super().__init__(config)
        self._listening = listening

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin to listen, and say so."""
        await super().startup(sockets)
        if not self.should_exit:
            self._listening()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Let SIGTERM and SIGINT end the server; a second SIGINT ends it at once."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        loop = asyncio.get_running_loop()
        for number in SIGNALS:
            loop.add_signal_handler(number, self.handle_exit, number, None)
        try:
            yield
        finally:
            for number in SIGNALS:
                loop.remove_signal_handler(number)


async def serve(
    platform: Platform,
    host: str,
    port: int,
    on_ready: Callable[[str], None],
    settings: GatewaySettings | None = None,
) -> None:
    """Serve until SIGTERM or SIGINT; answers in flight are finished first.

    Args:
        platform: the running platform.
        host: address to listen on.
        port: port to listen on; 0 takes a free one.
        on_ready: called with the URL once connections are accepted.
        settings: the gateway's.

    Raises:
        InvalidRequest: the address cannot be listened on (``address_in_use``).
    """
    config = uvicorn.Config(
        build(platform, settings),
        loop="none",  # the loop is there already: see ``loop_factory``
        http="httptools",
        ws="none",
        lifespan="on",
        log_level="warning",
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=GRACE,
        timeout_keep_alive=75,
    )
    listener = _listen(host, port)
    shown = f"[{host}]" if ":" in host else host
    url = f"http://{shown}:{listener.getsockname()[1]}"
    server = _Server(config, lambda: on_ready(url))
    try:
        await server.serve(sockets=[listener])
    finally:
        listener.close()


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=2048)
    except OSError as error:
        raise InvalidRequest(
            f"Cannot listen on {host}:{port}: {error.strerror}.",
            fix="Take another port, or 0 for a free one.",
            code="address_in_use",
        ) from error


def loop_factory() -> asyncio.AbstractEventLoop:
    """A uvloop event loop where there is one, for ``asyncio.Runner(loop_factory=…)``."""
    try:
        import uvloop
    except ImportError:
        return asyncio.new_event_loop()
    return uvloop.new_event_loop()
