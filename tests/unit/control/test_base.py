"""The shape of reconcilers: claims, leases, backing off, giving up, stopping."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from itertools import pairwise

import pytest
from controlhouse import House

from graftwork.control.bell import Bell
from graftwork.control.reconcilers.base import Pace, Reconciler, Rows
from graftwork.core.nouns import Job
from graftwork.store import Claim, Tx

Work = Callable[[Claim[Job]], Awaitable[float]]


class Worker(Reconciler[Job]):
    """Does what it is told with jobs."""

    name = "worker"

    def __init__(self, house: House, work: Work, pace: Pace | None = None) -> None:
        super().__init__(house.store, house.clock, Bell(), pace or Pace(backoff=1.0, tries=3), "worker")
        self.script = work
        self.given_up: list[str] = []

    def rows(self, tx: Tx) -> Rows[Job]:
        return tx.jobs

    def key(self, item: Job) -> str:
        return item.id

    async def work(self, claim: Claim[Job]) -> float:
        return await self.script(claim)

    async def give_up(self, claim: Claim[Job], error: Exception) -> float:
        self.given_up.append(str(error))
        return 100.0


async def test_work_is_not_seen_again_before_its_time(house: House):
    seen: list[str] = []

    async def work(claim: Claim[Job]) -> float:
        seen.append(claim.item.id)
        return 10.0

    worker = Worker(house, work)
    job = (await house.create()).job
    assert await worker.once() == 1
    await house.clock.advance(9)
    assert await worker.once() == 0
    await house.clock.advance(2)
    assert await worker.once() == 1
    assert seen == [job.id, job.id]


async def test_failures_back_off_and_are_given_up(house: House, caplog: pytest.LogCaptureFixture):
    tries: list[float] = []

    async def work(claim: Claim[Job]) -> float:
        tries.append(house.clock.now())
        raise ValueError("a bug")

    worker = Worker(house, work)
    job = (await house.create()).job
    for _ in range(200):
        await worker.once()
        await house.clock.advance(0.5)
    gaps = [after - before for before, after in pairwise(tries)]
    assert gaps == [1.0, 2.0]
    assert worker.given_up == ["a bug"]
    assert f"worker {job.id}: failed, tried again later" in caplog.text
    assert "a bug" in caplog.text


async def test_a_lease_is_kept_while_the_work_lasts(house: House):
    going, done = asyncio.Event(), asyncio.Event()

    async def work(claim: Claim[Job]) -> float:
        going.set()
        await done.wait()
        return 5.0

    await house.create()
    worker, other = Worker(house, work, Pace(lease=3)), Worker(house, work)
    turn = asyncio.create_task(worker.once())
    await going.wait()
    for _ in range(10):
        await house.clock.advance(1)
        for _ in range(50):
            await asyncio.sleep(0.002)  # the renewal is a transaction of its own
            if house.clock.sleeping:
                break
        assert await other.once() == 0
    done.set()
    assert await turn == 1


async def test_work_whose_lease_is_lost_is_ended(house: House):
    going, ended = asyncio.Event(), asyncio.Event()

    async def work(claim: Claim[Job]) -> float:
        going.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()
        return 0.0

    job = (await house.create()).job
    worker = Worker(house, work, Pace(lease=3))
    turn = asyncio.create_task(worker.once())
    await going.wait()
    house.clock.set(house.clock.now() + 100)  # as after a laptop's sleep: no renewal in time
    async with house.store.begin() as tx:
        assert [claim.item.id for claim in await tx.jobs.claim("other", 1, 1000)] == [job.id]
    await house.clock.advance(1)
    assert await turn == 1
    assert ended.is_set()
    async with house.store.begin() as tx:
        assert await tx.jobs.claim("third", 1, 30) == []  # the other one still has it


async def test_a_stopped_reconciler_lets_go_of_its_rows_at_once(house: House):
    going = asyncio.Event()

    async def work(claim: Claim[Job]) -> float:
        going.set()
        await asyncio.Event().wait()
        return 0.0

    worker = Worker(house, work)
    await house.create()
    stop = asyncio.Event()
    running = asyncio.create_task(worker.run(stop))
    await going.wait()
    stop.set()
    worker.bell.ring()
    await running
    async with house.store.begin() as tx:
        assert len(await tx.jobs.claim("next", 1, 30)) == 1


async def test_a_ring_of_the_bell_is_heard_before_the_next_poll(house: House):
    seen = asyncio.Event()

    async def work(claim: Claim[Job]) -> float:
        seen.set()
        return 1000.0

    worker = Worker(house, work, Pace(poll=1000))
    stop = asyncio.Event()
    running = asyncio.create_task(worker.run(stop))
    await asyncio.sleep(0.05)
    await house.create()
    worker.bell.ring()
    async with asyncio.timeout(20):
        await seen.wait()
    stop.set()
    worker.bell.ring()
    await running


async def test_a_store_that_fails_does_not_end_the_loop(house: House, caplog: pytest.LogCaptureFixture):
    seen = asyncio.Event()

    async def work(claim: Claim[Job]) -> float:
        seen.set()
        return 1000.0

    class Flaky(Worker):
        failures = 2

        def rows(self, tx: Tx) -> Rows[Job]:
            if self.failures:
                self.failures -= 1
                raise OSError("the disk hiccups")
            return tx.jobs

    worker = Flaky(house, work, Pace(poll=0.01, backoff=0.01))
    await house.create()
    stop = asyncio.Event()
    running = asyncio.create_task(worker.run(stop))
    async with asyncio.timeout(20):
        await seen.wait()
    stop.set()
    await running
    assert caplog.text.count("the disk hiccups") >= 2
