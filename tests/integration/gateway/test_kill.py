"""Killed in mid-work, the gateway has billed every answer that any caller got whole."""

import asyncio
import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import httpx
import pytest

from graftwork.core import ids
from graftwork.core.keys import key_digest, new_key
from graftwork.core.nouns import ApiKey, Organization, Project
from graftwork.core.states import EntryState
from graftwork.store import Store

pytestmark = pytest.mark.slow

SCRIPT = Path(__file__).with_name("serve_gateway.py")
SOURCE = Path(__file__).parents[3] / "src"
CALLERS = 12
BODY = {"model": "seedling", "messages": [{"role": "user", "content": "hi"}]}


async def tenant(url: str) -> tuple[str, str]:
    """A project and the text of its key."""
    store = await Store.open(url)
    parts = new_key()
    async with store.begin() as tx:
        await tx.organizations.create(Organization(id="org-1", name="acme", created_at=1.0))
        await tx.projects.create(Project(id="proj_1", organization_id="org-1", name="p", created_at=1.0))
        await tx.keys.create(
            ApiKey(
                id=ids.new_id(ids.KEY),
                project_id="proj_1",
                name="k",
                lookup=parts.lookup,
                digest=key_digest(parts.secret, b"pepper"),
                created_at=1.0,
            )
        )
    await store.close()
    return "proj_1", parts.text


class Load:
    """Callers that ask again and again; half of them stream."""

    def __init__(self, url: str, key: str) -> None:
        self.http = httpx.AsyncClient(
            base_url=url, headers={"authorization": f"Bearer {key}"}, timeout=10, trust_env=False
        )
        self.whole: list[str] = []
        """Request ids of the answers that came whole."""
        self.enough = asyncio.Event()

    async def caller(self, number: int, until: int) -> None:
        """Ask until the gateway is gone."""
        stream = number % 2 == 0
        with suppress(httpx.TransportError):
            while True:
                answer = await self.http.post("/v1/chat/completions", json=BODY | {"stream": stream})
                if answer.status_code == 200 and (not stream or answer.text.endswith("data: [DONE]\n\n")):
                    self.whole.append(answer.headers["x-request-id"])
                if len(self.whole) >= until:
                    self.enough.set()


@pytest.mark.parametrize("answers", [30, 75, 140])
async def test_no_answer_is_unbilled_after_a_kill(database_url, answers):
    project, key = await tenant(database_url)
    process = subprocess.Popen(
        [sys.executable, str(SCRIPT), database_url],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(SOURCE)},
    )
    try:
        line = await asyncio.to_thread(process.stdout.readline)
        load = Load(line.decode().strip(), key)
        callers = [asyncio.create_task(load.caller(n, answers)) for n in range(CALLERS)]
        await asyncio.wait_for(load.enough.wait(), 60)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
    await asyncio.gather(*callers)
    await load.http.aclose()
    store = await Store.open(database_url)
    async with store.read() as tx:
        entries = (await tx.ledger.list(project, limit=100_000)).items
        spent = await tx.ledger.spent(project)
    await store.close()
    settled = {e.refs["request"] for e in entries if e.state is EntryState.SETTLED}
    assert len(load.whole) >= answers
    assert set(load.whole) <= settled, "an answer went out that is not billed"
    assert len(settled) - len(load.whole) <= CALLERS, "more is billed than can have been on its way"
    assert spent == sum(e.amount for e in entries)
    assert all(e.amount > 0 for e in entries)
