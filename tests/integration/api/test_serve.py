"""The server as a process: it announces itself, finishes what it began on SIGTERM, and leaves with 0."""

import asyncio
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import httpx
import pytest

from graftwork.api.serve import serve
from graftwork.core import ids
from graftwork.core.errors import InvalidRequest
from graftwork.core.keys import key_digest, new_key
from graftwork.core.nouns import ApiKey, Organization, Project
from graftwork.core.states import EntryState
from graftwork.store import Store

SCRIPT = Path(__file__).with_name("run_server.py")
SOURCE = Path(__file__).parents[3] / "src"


async def tenant(url: str) -> str:
    """The text of a key to a fresh project."""
    store = await Store.open(url)
    parts = new_key()
    async with store.begin() as tx:
        await tx.organizations.create(Organization(id="org-1", name="acme", created_at=1.0))
        await tx.projects.create(Project(id="proj_1", organization_id="org-1", name="p", created_at=1.0))
        digest = key_digest(parts.secret, b"pepper")
        key = ApiKey(
            id=ids.new_id(ids.KEY),
            project_id="proj_1",
            name="k",
            lookup=parts.lookup,
            digest=digest,
            created_at=1.0,
        )
        await tx.keys.create(key)
    await store.close()
    return parts.text


@pytest.mark.slow
async def test_a_stream_in_flight_is_finished_and_the_exit_is_clean(sqlite_url):
    key = await tenant(sqlite_url)
    process = subprocess.Popen(
        [sys.executable, str(SCRIPT), sqlite_url],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(SOURCE)},
    )
    try:
        url = (await asyncio.to_thread(process.stdout.readline)).decode().strip()
        body = {"model": "seedling", "messages": [{"role": "user", "content": "hi"}], "stream": True}
        async with (
            httpx.AsyncClient(base_url=url, trust_env=False, timeout=20) as client,
            client.stream(
                "POST", "/v1/chat/completions", json=body, headers={"authorization": f"Bearer {key}"}
            ) as answer,
        ):
            assert (await client.get("/api/health")).json()["status"] == "ok"
            pieces = answer.aiter_text()
            text = await anext(pieces)
            process.send_signal(signal.SIGTERM)
            text += "".join([piece async for piece in pieces])
        assert text.endswith("data: [DONE]\n\n")
        rest, code = await asyncio.to_thread(lambda: (process.stdout.read(), process.wait(20)))
        assert (rest.decode().strip(), code) == ("closed", 0)
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
    store = await Store.open(sqlite_url)
    async with store.read() as tx:
        [entry] = (await tx.ledger.list("proj_1", limit=10)).items
    await store.close()
    assert entry.state is EntryState.SETTLED


async def test_a_taken_address_is_said_clearly(sqlite_url):
    store = await Store.open(sqlite_url)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        models = SimpleNamespace(offer=None)
        platform = SimpleNamespace(store=store, clock=None, pepper=b"x", models=models)
        with pytest.raises(InvalidRequest) as caught:
            await serve(platform, "127.0.0.1", port, on_ready=lambda url: None)
    await store.close()
    assert caught.value.code == "address_in_use"
    assert str(port) in caught.value.message
