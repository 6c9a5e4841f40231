"""A gateway in its own process over a fake engine: ``serve_gateway.py DATABASE_URL``; prints its port.

It is run by the tests beside it, which kill it in mid-work.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from graftwork.gateway import Gateway
from graftwork.serving.wire.server import LoopbackServer
from graftwork.store import Store
from graftwork.testing.fake_engine import FakeEngine

BASE = "seedling"


async def main(url: str) -> None:
    """Serve until killed."""
    store = await Store.open(url)
    engine = FakeEngine(say=lambda model, messages: "one two three four five six seven eight")
    info = await engine.ensure(Path("base"), BASE)
    engine.backend.max_waiting = 1000
    async with store.begin() as tx:
        book = {"version": "p1", "models": {BASE: {"train": 1, "input": 1_000_000, "output": 1_000_000}}}
        await tx.prices.put("p1", book)
        endpoint = await tx.endpoints.ensure(BASE, "fake", 1.0)
        live = {"url": info.url, "token": info.token, "generation": info.generation}
        await tx.endpoints.update(endpoint.id, state="ready", **live)
    gateway = Gateway(store, pepper=b"pepper")
    await gateway.start()
    server = LoopbackServer(gateway)
    task = asyncio.create_task(server.run_here())
    await server.listening.wait()
    print(server.url, flush=True)
    await task


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
