"""A killed writer, a cancelled task, a lost connection: nothing committed is lost, and the store goes on."""

import asyncio
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from graftwork.store import Store

WRITER = """
import asyncio, sys
from graftwork.core.nouns import LedgerEntry
from graftwork.core.states import EntryState
from graftwork.store import Store

async def main():
    store = await Store.open(sys.argv[1])
    number = 0
    while True:
        entry = LedgerEntry(
            key=f"k{number}", project_id=sys.argv[2], kind="inference", state=EntryState.OPEN, amount=1,
            quantity={}, price_version="v", refs={}, created_at=1.0,
        )
        async with store.begin() as tx:
            await tx.ledger.reserve(entry)
            await tx.projects.set_budget(sys.argv[2], number)
        print(number, flush=True)
        number += 1

asyncio.run(main())
"""


async def test_what_was_committed_survives_a_killed_process(database_url: str, store: Store, world):
    project = await world.project()
    before = await store.generation()
    arguments = [sys.executable, "-c", WRITER, database_url, project.id]
    source = Path(__file__).parents[3] / "src"
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, env={"PYTHONPATH": str(source)}) as writer:
        acknowledged = await asyncio.to_thread(lambda: [int(writer.stdout.readline()) for _ in range(20)][-1])
        writer.send_signal(signal.SIGKILL)
        rest = await asyncio.to_thread(writer.stdout.read)
    acknowledged = max([acknowledged, *map(int, rest.split())])
    async with store.begin() as tx:
        spent = await tx.ledger.spent(project.id)
        rows = (await tx.ledger.list(project.id, limit=10_000)).items
        budget = (await tx.projects.get(project.id)).budget
    assert acknowledged + 1 <= spent <= acknowledged + 2  # at most one was committed and not yet told
    # All of a transaction is there or none of it: rows, balance, budget and generation agree.
    assert {row.key for row in rows} == {f"k{n}" for n in range(spent)}
    assert budget == spent - 1
    assert await store.generation() == before + spent


async def test_a_cancelled_transaction_is_rolled_back_and_frees_the_writer(store: Store, world):
    project = await world.project()
    inside, forever = asyncio.Event(), asyncio.Event()

    async def hang() -> None:
        async with store.begin() as tx:
            await tx.projects.set_budget(project.id, 5)
            inside.set()
            await forever.wait()

    for _ in range(3):
        task = asyncio.create_task(hang())
        await inside.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        inside.clear()
    async with store.begin() as tx:
        assert (await tx.projects.get(project.id)).budget is None


async def test_readers_do_not_wait_for_a_writer(store: Store, world):
    project = await world.project()
    async with store.begin() as tx:
        await tx.projects.set_budget(project.id, 5)
        async with asyncio.timeout(5):
            async with store.read() as reader:
                assert (await reader.projects.get(project.id)).budget is None
            assert await store.generation() > 0


async def test_a_lost_connection_is_replaced(postgres, postgres_url: str):
    store = await Store.open(postgres_url)
    async with store.begin() as tx:
        await tx.settings.put("a", 1)
    postgres.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = 'shared'")
    async with store.begin() as tx:
        assert await tx.settings.get("a") == 1
    await store.close()
