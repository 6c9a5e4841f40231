"""Several processes' worth of stores on one database: one owner, one winner, one row, no lost update."""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from graftwork.billing import reserve
from graftwork.core.errors import BudgetExceeded, Conflict, NotFound
from graftwork.core.nouns import ApiKey, LedgerEntry
from graftwork.core.states import EntryState, Phase
from graftwork.registry import promote
from graftwork.store import Store, Tx


@pytest.fixture
async def stores(database_url: str, store: Store):
    """Two stores with connections of their own, as two processes have."""
    other = await Store.open(database_url)
    yield [store, other]
    await other.close()


async def race(stores: list[Store], count: int, act: Callable[[Tx, int], Awaitable[Any]]) -> list[Any]:
    """Run ``count`` transactions at once, spread over the stores; each one's result or our error."""

    async def one(number: int) -> Any:
        try:
            async with stores[number % len(stores)].begin() as tx:
                return await act(tx, number)
        except (Conflict, NotFound, BudgetExceeded) as error:
            return error

    return await asyncio.gather(*(one(number) for number in range(count)))


def codes(results: list[Any]) -> Counter:
    return Counter(result.code if isinstance(result, Exception) else "won" for result in results)


async def test_no_row_is_ever_given_to_two_owners(stores: list[Store], world):
    project = await world.project()
    async with stores[0].begin() as tx:
        for _ in range(40):
            await tx.jobs.create(world.new_job(project.id))
    owned: Counter = Counter()

    async def work(number: int) -> None:
        while True:
            async with stores[number % 2].begin() as tx:
                claims = await tx.jobs.claim(f"owner {number}", 3, lease_seconds=600)
            if not claims:
                return
            for claim in claims:
                owned[claim.item.id] += 1
                async with stores[number % 2].begin() as tx:
                    assert await tx.jobs.apply(claim, move=Phase.PROVISIONING)

    await asyncio.gather(*(work(number) for number in range(6)))
    assert len(owned) == 40
    assert set(owned.values()) == {1}


async def test_an_expired_lease_goes_to_exactly_one_and_its_holder_is_shut_out(stores: list[Store], world):
    project = await world.project()
    await world.job(project.id)
    async with stores[0].begin() as tx:
        [stale] = await tx.jobs.claim("crashed", lease_seconds=-1)
    claims = await race(stores, 8, lambda tx, n: tx.jobs.claim(f"owner {n}", lease_seconds=600))
    [fresh] = [claim for found in claims for claim in found]
    applied = await race(stores, 8, lambda tx, n: tx.jobs.apply(stale if n % 2 else fresh, progress=n))
    assert applied == [True, False] * 4


async def test_of_many_moves_of_one_claim_one_counts(stores: list[Store], world):
    job = await world.job((await world.project()).id)
    async with stores[0].begin() as tx:
        [claim] = await tx.jobs.claim("one", lease_seconds=600)
    moved = await race(stores, 8, lambda tx, n: tx.jobs.apply(claim, move=Phase.PROVISIONING, fence=1))
    assert sorted(moved) == [False] * 7 + [True]
    async with stores[0].read() as tx:
        assert len(await tx.job_events.since(job.id, 0, 99)) == 1


async def test_the_same_idempotency_key_at_the_same_time_makes_one_job(stores: list[Store], world):
    project = await world.project()
    jobs = [world.new_job(project.id) for _ in range(8)]
    results = await race(stores, 8, lambda tx, n: tx.jobs.create(jobs[n], "key", "body"))
    assert len({job.id for job, _ in results}) == 1
    assert sum(created for _, created in results) == 1
    more = [world.new_job(project.id) for _ in range(8)]
    others = await race(stores, 8, lambda tx, n: tx.jobs.create(more[n], "key 2", f"body {n % 2}"))
    assert sum(codes(others).values()) == 8
    assert codes(others)["idempotency_conflict"] == 4  # the half with the other body
    async with stores[0].read() as tx:
        assert len((await tx.jobs.list(project.id, limit=99)).items) == 2


async def test_each_generation_of_an_alias_has_exactly_one_winner(stores: list[Store], world):
    project = await world.project()
    adapter = await world.adapter(project.id)
    versions = [await world.version(adapter) for _ in range(2)]
    for generation in range(4):

        async def move(tx: Tx, n: int, generation: int = generation):
            return await tx.aliases.move(
                adapter.id,
                "production",
                versions[n % 2].id,
                expected_generation=generation,
                actor=f"mover {n}",
                reason="",
                at=1.0,
            )

        assert codes(await race(stores, 8, move)) == {"won": 1, "alias_moved": 7}
    async with stores[0].read() as tx:
        assert [m.generation for m in await tx.aliases.moves(adapter.id, "production")] == [4, 3, 2, 1]


async def test_an_alias_never_points_at_a_deleted_version(stores: list[Store], world):
    project = await world.project()
    adapter = await world.adapter(project.id)
    for attempt in range(6):
        version = await world.version(adapter)

        async def act(tx: Tx, n: int, version=version, attempt: int = attempt):
            if n:
                return await tx.versions.mark_deleted(project.id, version.id, 1.0)
            return await promote(tx, project.id, adapter, version, alias=f"a{attempt}", actor="me", at=1.0)

        outcome = codes(await race(stores, 2, act))
        assert outcome["won"] == 1, outcome
        async with stores[0].read() as tx:
            alias = await tx.aliases.get(adapter.id, f"a{attempt}")
            stored = await tx.versions.get(project.id, version.id)
        assert (alias is None) == (stored.deleted_at is not None)


async def test_numbers_of_versions_and_events_have_no_gaps_or_twins(stores: list[Store], world):
    project = await world.project()
    adapter = await world.adapter(project.id)
    versions = await asyncio.gather(*(world.version(adapter) for _ in range(8)))
    assert sorted(v.number for v in versions) == list(range(1, 9))
    job = await world.job(project.id)
    await race(stores, 12, lambda tx, n: tx.job_events.add(job.id, level="info", message=str(n)))
    told = await race(
        stores, 8, lambda tx, n: tx.job_events.add(job.id, level="info", message="x", dedupe="once")
    )
    assert len({event.id for event in told}) == 1
    async with stores[0].read() as tx:
        events = await tx.job_events.since(job.id, 0, 99)
    assert len(events) == 13
    assert [e.seq for e in events[:12]] == list(range(1, 13))


def an_entry(project_id: str, key: str, amount: int) -> LedgerEntry:
    return LedgerEntry(
        key=key,
        project_id=project_id,
        kind="inference",
        state=EntryState.OPEN,
        amount=amount,
        quantity={},
        price_version="v",
        refs={},
        created_at=1.0,
    )


async def test_money_is_settled_once_and_budgets_hold_under_contention(stores: list[Store], world):
    project = await world.project(budget=50)
    results = await race(stores, 12, lambda tx, n: reserve(tx, an_entry(project.id, f"k{n}", 10)))
    assert codes(results) == {"won": 5, "budget_exceeded": 7}
    kept = [f"k{n}" for n, result in enumerate(results) if result is True]
    settled = await race(stores, 8, lambda tx, n: tx.ledger.settle(kept[0], n + 1, {}, 2.0))
    assert sorted(settled) == [False] * 7 + [True]
    async with stores[0].read() as tx:
        amount = (await tx.ledger.get(kept[0])).amount
        assert amount == settled.index(True) + 1
        assert await tx.ledger.spent(project.id) == 40 + amount


async def test_writers_of_many_projects_do_not_lock_each_other_out(stores: list[Store], world):
    projects = [await world.project() for _ in range(4)]

    async def write(tx: Tx, n: int) -> None:
        order = projects if n % 2 else projects[::-1]
        # The same keys, wanted by all at once, in opposite orders; then keys of one's own.
        await tx.ledger.reserve_many([an_entry(p.id, f"{p.id}-{i}", 1) for p in order for i in range(100)])
        await tx.ledger.reserve_many([an_entry(p.id, f"{p.id}-{i}-{n}", 1) for p in order for i in range(5)])

    await race(stores, 8, write)
    async with stores[0].read() as tx:
        assert [await tx.ledger.spent(p.id) for p in projects] == [8 * 5 + 100] * 4


async def test_budgets_of_many_projects_are_checked_without_locking_each_other_out(
    stores: list[Store], world
):
    projects = [await world.project(budget=1000) for _ in range(3)]
    async with stores[0].begin() as tx:
        await tx.ledger.reserve_many([an_entry(p.id, f"{p.id}-{n}", 10) for p in projects for n in range(8)])

    async def write(tx: Tx, n: int) -> None:
        order = projects if n % 2 else projects[::-1]
        for project in order:  # one by one: each a statement of its own
            await tx.ledger.settle(f"{project.id}-{n}", 3, {}, 2.0)
        if n % 3:
            await tx.ledger.lock(p.id for p in order[:2])
            assert await tx.ledger.spent(order[0].id) < 1000
        for project in order:
            await tx.ledger.reserve(an_entry(project.id, f"{project.id}-new-{n}", 1))

    await race(stores, 8, write)
    async with stores[0].read() as tx:
        assert [await tx.ledger.spent(p.id) for p in projects] == [8 * 3 + 8] * 3


async def test_a_snapshot_is_of_one_generation(stores: list[Store], world):
    project = await world.project()
    base = await stores[0].generation()
    done = asyncio.Event()

    async def look() -> list[tuple[int, int]]:
        seen = []
        while not done.is_set():
            async with stores[1].read() as tx:
                shot = await tx.snapshot()
            seen.append((shot.generation - base, len(shot.keys)))
        return seen

    async def create(tx: Tx, n: int) -> None:
        await tx.keys.create(
            ApiKey(id=f"key_{n}", project_id=project.id, name="k", lookup=f"l{n}", digest="d", created_at=1.0)
        )

    looking = asyncio.create_task(look())
    await race(stores, 24, create)
    done.set()
    seen = await looking
    assert seen == sorted(seen)
    assert all(generation == keys for generation, keys in seen)  # one key a generation: never torn
    assert await stores[0].generation() == base + 24
