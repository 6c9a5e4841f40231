"""``api.serve`` in its own process over fakes: ``run_server.py DATABASE_URL``; prints the URL.

The chat engine says one word every tenth of a second, so that a test can stop the server in mid-answer.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from types import SimpleNamespace

from graftwork.api.serve import loop_factory, serve
from graftwork.core.clock import SystemClock
from graftwork.store import Store
from graftwork.testing.fake_engine import FakeEngine

BASE = "seedling"


async def _known(name: str) -> None:
    """Nothing is left to learn about a base model: its price is in the book."""


async def main(url: str) -> None:
    """Serve until told to stop."""
    store = await Store.open(url)
    engine = FakeEngine(say=lambda model, messages: "one two three four five six")
    info = await engine.ensure(Path("base"), BASE)
    engine.backend.delay = 0.1
    async with store.begin() as tx:
        book = {"version": "p1", "models": {BASE: {"train": 1, "input": 1, "output": 1}}}
        await tx.prices.put("p1", book)
        endpoint = await tx.endpoints.ensure(BASE, "fake", 1.0)
        live = {"url": info.url, "token": info.token, "generation": info.generation}
        await tx.endpoints.update(endpoint.id, state="ready", **live)
    models = SimpleNamespace(offer=_known)
    platform = SimpleNamespace(store=store, clock=SystemClock(), pepper=b"pepper", models=models)
    await serve(platform, "127.0.0.1", 0, on_ready=lambda where: print(where, flush=True))
    await engine.destroy()
    await store.close()
    print("closed", flush=True)


if __name__ == "__main__":
    asyncio.Runner(loop_factory=loop_factory).run(main(sys.argv[1]))
