"""The ledger: each key counts once, open becomes settled or void once, balances are sums."""

from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from graftwork.core.errors import InvalidRequest
from graftwork.core.nouns import LedgerEntry
from graftwork.core.states import EntryState
from graftwork.store import Settlement, Store


def an_entry(project_id: str, key: str, amount: int = 10, **fields) -> LedgerEntry:
    given = {
        "key": key,
        "project_id": project_id,
        "kind": "inference",
        "state": EntryState.OPEN,
        "amount": amount,
        "quantity": {"prompt_tokens": 3},
        "price_version": "v1",
        "refs": {"model": "ft:x"},
        "created_at": 1.0,
    }
    return LedgerEntry(**{**given, **fields})


async def test_open_then_settled_once(store: Store, world):
    project = await world.project()
    async with store.begin() as tx:
        assert await tx.ledger.reserve(an_entry(project.id, "k", 10))
        assert not await tx.ledger.reserve(an_entry(project.id, "k", 99))
        assert not await tx.ledger.record(an_entry(project.id, "k", 99))
        assert await tx.ledger.spent(project.id) == 10
        assert await tx.ledger.settle("k", 4, {"prompt_tokens": 2}, 5.0)
        assert not await tx.ledger.settle("k", 9, {}, 6.0)
        assert not await tx.ledger.void("k", 6.0)
        settled = an_entry(
            project.id, "k", 4, state=EntryState.SETTLED, quantity={"prompt_tokens": 2}, settled_at=5.0
        )
        assert await tx.ledger.get("k") == settled
        assert await tx.ledger.spent(project.id) == 4
        assert not await tx.ledger.settle("never", 1, {}, 1.0)


async def test_void_releases_and_keeps_what_was_reserved_for(store: Store, world):
    project = await world.project()
    async with store.begin() as tx:
        await tx.ledger.reserve(an_entry(project.id, "k"))
        assert await tx.ledger.void("k", 5.0)
        assert not await tx.ledger.settle("k", 9, {}, 6.0)
        assert not await tx.ledger.reserve(an_entry(project.id, "k"))  # a key is used up
        assert await tx.ledger.spent(project.id) == 0
        stored = await tx.ledger.get("k")
    assert (stored.state, stored.amount, stored.quantity) == (EntryState.VOID, 0, {"prompt_tokens": 3})


async def test_a_recorded_entry_is_settled_from_the_start(store: Store, world):
    project = await world.project()
    async with store.begin() as tx:
        assert await tx.ledger.record(an_entry(project.id, "k", 10))
        assert not await tx.ledger.settle("k", 1, {}, 2.0)
        stored = await tx.ledger.get("k")
    assert (stored.state, stored.settled_at) == (EntryState.SETTLED, 1.0)


async def test_many_at_once(store: Store, world):
    one, two = await world.project(), await world.project()
    entries = [an_entry((one, two)[n % 2].id, f"k{n}", n) for n in range(1200)]
    async with store.begin() as tx:
        assert await tx.ledger.reserve_many(entries[:7]) == {e.key for e in entries[:7]}
        assert await tx.ledger.reserve_many([*entries, entries[8]]) == {e.key for e in entries[7:]}
        settlements = [Settlement(key=f"k{n}", amount=1, quantity={}, at=2.0) for n in range(1300)]
        closed = await tx.ledger.settle_many([*settlements, replace(settlements[0], amount=50)])
        assert closed == {e.key for e in entries}
        assert await tx.ledger.settle_many(settlements) == set()
        assert (await tx.ledger.spent(one.id), await tx.ledger.spent(two.id)) == (600, 600)
        assert await tx.ledger.reserve_many([]) == await tx.ledger.settle_many([]) == set()


async def test_lists_and_orphans(store: Store, world):
    one, two = await world.project(), await world.project()
    async with store.begin() as tx:
        for n in range(5):
            await tx.ledger.reserve(
                an_entry(one.id, f"k{n}", created_at=float(n), refs={"job": "j" if n < 2 else "i"})
            )
        await tx.ledger.reserve(an_entry(two.id, "other", created_at=2.0))
        await tx.ledger.settle("k1", 1, {}, 9.0)
        page = await tx.ledger.list(one.id, limit=2)
        assert ([e.key for e in page.items], page.has_more) == (["k4", "k3"], True)
        page = await tx.ledger.list(one.id, since=1.0, until=3.0, after="k3", limit=9)
        assert ([e.key for e in page.items], page.has_more) == (["k2", "k1"], False)
        with pytest.raises(InvalidRequest):
            await tx.ledger.list(one.id, after="other", limit=1)
        assert [e.key for e in await tx.ledger.for_job(one.id, "j")] == ["k0", "k1"]
        assert await tx.ledger.for_job(two.id, "j") == []
        assert [e.key for e in await tx.ledger.open_before(3.0)] == ["k0", "k2", "other"]
        assert [e.key for e in await tx.ledger.open_before(3.0, limit=1)] == ["k0"]


ACTIONS = st.lists(
    st.tuples(
        st.sampled_from(["reserve", "record", "settle", "void"]), st.integers(0, 4), st.integers(0, 10**15)
    ),
    max_size=25,
)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(actions=ACTIONS)
async def test_totals_and_balances_are_the_sums_of_the_rows(store: Store, world, actions):
    project = await world.project()
    async with store.begin() as tx:
        for action, number, amount in actions:
            key = f"{project.id}-{number}"
            match action:
                case "reserve":
                    await tx.ledger.reserve(an_entry(project.id, key, amount))
                case "record":
                    await tx.ledger.record(an_entry(project.id, key, amount))
                case "settle":
                    await tx.ledger.settle(key, amount, {"prompt_tokens": 1}, 2.0)
                case _:
                    await tx.ledger.void(key, 2.0)
        rows = (await tx.ledger.list(project.id, limit=99)).items
        totals = await tx.ledger.totals(project.id)
        spent = await tx.ledger.spent(project.id)
    settled = sum(row.amount for row in rows if row.state is EntryState.SETTLED)
    reserved = sum(row.amount for row in rows if row.state is EntryState.OPEN)
    assert sum(total.amount for total in totals) == settled
    assert sum(total.reserved for total in totals) == reserved
    assert spent == settled + reserved
