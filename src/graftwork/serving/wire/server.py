"""A uvicorn server on a loopback socket that says when it listens and leaves the process's signals alone."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Iterator

import uvicorn
from starlette.types import ASGIApp


class LoopbackServer(uvicorn.Server):
    """Serves ``app`` on ``host``; port 0 takes a free one.

    Usage: ``task = asyncio.create_task(server.run_here())``, ``await server.listening.wait()``, and later
    ``stop()``.
    """

    def __init__(self, app: ASGIApp, host: str = "127.0.0.1", port: int = 0, *, grace: int = 1) -> None:
        """Bind at once, so that the address is known; ``grace``: seconds that answers get at the end."""
        config = uvicorn.Config(
            app, log_level="error", access_log=False, lifespan="off", timeout_graceful_shutdown=grace
        )
        super().__init__(config)
        self.listening = asyncio.Event()
        self._socket = socket.create_server((host, port), backlog=1024)
        self.url = f"http://{host}:{self._socket.getsockname()[1]}"

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave signals to whoever owns the process."""
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin to listen, and say so."""
        await super().startup(sockets)
        self.listening.set()

    async def run_here(self) -> None:
        """Serve on this event loop until ``stop``."""
        await self.serve(sockets=[self._socket])

    def stop(self, *, at_once: bool = False) -> None:
        """End ``run_here``: after the answers in flight (within the grace), or at once."""
        self.should_exit = True
        self.force_exit = at_once
