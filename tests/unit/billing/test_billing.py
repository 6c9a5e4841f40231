"""Prices, budgets, quotes, the money of jobs and machines, bills."""

import random

import pytest

from graftwork.billing import (
    Budget,
    ModelPrice,
    PriceBook,
    bill,
    budget_of,
    current_prices,
    ensure_prices,
    machine_key,
    publish,
    quote,
    read_book,
    release_training,
    reserve,
    reserve_machine,
    reserve_training,
    settle_machine,
    settle_training,
    split,
    training_key,
)
from graftwork.core.errors import BudgetExceeded, NotFound, PlatformError
from graftwork.core.nouns import LedgerEntry
from graftwork.core.states import EntryState
from graftwork.store import Store

SEEDLING = ModelPrice(train=50_000, input=20_000, output=40_000)
LARGE = ModelPrice(train=3_000_000, input=1_000_000, output=2_000_000)


def test_a_training_run_is_rounded_up_once():
    assert SEEDLING.training_cost(90_001) == 4_501


def test_a_model_without_a_price_is_not_sold():
    with pytest.raises(PlatformError) as caught:
        PriceBook(version="1").model("seedling")
    assert caught.value.code == "price_missing"
    with pytest.raises(PlatformError) as broken:
        read_book({"version": "1", "models": {"a": {"train": -1}}})
    assert broken.value.code == "price_book_invalid"


async def test_prices_are_published_as_new_versions_and_old_ones_stay(store: Store):
    async with store.begin() as tx:
        assert (await current_prices(tx)).models == {}
        first = await publish(tx, {"seedling": SEEDLING})
        assert await publish(tx, {"seedling": SEEDLING}) == first == await current_prices(tx)
        both = await ensure_prices(tx, {"large": LARGE, "seedling": LARGE})
        assert both.models == {"large": LARGE, "seedling": SEEDLING}  # what was set is not overwritten
        assert await ensure_prices(tx, {"large": LARGE}) == both
        back = await publish(tx, {"seedling": SEEDLING})
        assert await current_prices(tx) == back
        assert len({first.version, both.version, back.version}) == 3
        assert [v.partition("-")[0] for v in (first.version, both.version, back.version)] == ["1", "2", "3"]
        assert read_book(await tx.prices.get(first.version)) == first


def test_a_quote_keeps_to_the_customers_cap():
    book = PriceBook(version="1", models={"seedling": SEEDLING})
    quoted = quote(book, "seedling", 2_000_000, max_cost="0.10")
    assert (quoted.amount, quoted.price_version, quoted.train_per_million) == (100_000, "1", 50_000)
    with pytest.raises(BudgetExceeded) as caught:
        quote(book, "seedling", 2_000_001, max_cost="$0.10")
    assert (caught.value.code, caught.value.param) == ("max_cost_exceeded", "max_cost")
    assert "$0.100001" in caught.value.message
    assert "$0.10." in caught.value.message


def test_a_budget_says_how_much_is_left():
    assert Budget(None, 10**12).left is None
    Budget(None, 10**12).require(10**12)
    Budget(5, 2).require(3)
    with pytest.raises(BudgetExceeded) as caught:
        Budget(5_000_000, 4_250_000).require(750_001)
    assert "only $0.75 is left" in caught.value.message
    assert caught.value.details == {
        "needed": 750_001,
        "left": 750_000,
        "budget": 5_000_000,
        "spent": 4_250_000,
    }
    assert Budget(5, 9).left == 0


async def a_trained_job(store: Store, world, budget: int | None = None):
    project = await world.project(budget=budget)
    return (
        project,
        await world.job(project.id),
        quote(PriceBook(version="1-x", models={"seedling": SEEDLING}), "seedling", 1_000_000),
    )


async def test_trained_tokens_are_billed_once_whatever_happens(store: Store, world):
    project, job, quoted = await a_trained_job(store, world)

    async def reserve_it(tx):
        return await reserve_training(
            tx, project_id=project.id, job_id=job.id, base=job.base, quoted=quoted, at=1.0
        )

    async with store.begin() as tx:
        assert await reserve_it(tx)
        assert not await reserve_it(tx)  # the second attempt finds the first one's reservation
        assert await tx.ledger.spent(project.id) == quoted.amount == 50_000
        assert await settle_training(tx, job_id=job.id, quoted=quoted, tokens=900_000, at=2.0) == 45_000
        for tokens in (900_000, 1_000_000, 0):
            assert await settle_training(tx, job_id=job.id, quoted=quoted, tokens=tokens, at=3.0) is None
        assert not await release_training(tx, job_id=job.id, at=3.0)
        assert not await reserve_it(tx)
        [entry] = await tx.ledger.for_job(project.id, job.id)
        assert (entry.key, entry.amount, entry.settled_at) == (training_key(job.id), 45_000, 2.0)
        assert entry.quantity == {"trained_tokens": 900_000}
        assert await tx.ledger.spent(project.id) == 45_000


async def test_a_job_that_trained_nothing_costs_nothing(store: Store, world):
    project, job, quoted = await a_trained_job(store, world)
    async with store.begin() as tx:
        await reserve_training(tx, project_id=project.id, job_id=job.id, base=job.base, quoted=quoted, at=1.0)
        assert await settle_training(tx, job_id=job.id, quoted=quoted, tokens=0, at=2.0) == 0
        assert await tx.ledger.spent(project.id) == 0
        assert (await tx.ledger.get(training_key(job.id))).state is EntryState.VOID


async def test_machines_are_paid_by_the_started_second(store: Store, world):
    project, job, _ = await a_trained_job(store, world)
    given = {
        "project_id": project.id,
        "job_id": job.id,
        "provider": "local",
        "price_per_hour": 3_600_000,
        "at": 1.0,
    }
    async with store.begin() as tx:
        for name in ("gw-1", "gw-2"):
            assert await reserve_machine(tx, name=name, seconds=600, **given)
            assert not await reserve_machine(tx, name=name, seconds=600, **given)
        assert await tx.ledger.spent(project.id) == 1_200_000
        assert await settle_machine(tx, name="gw-1", price_per_hour=3_600_000, seconds=90.1, at=2.0) == 91_000
        assert await settle_machine(tx, name="gw-1", price_per_hour=3_600_000, seconds=99, at=3.0) is None
        assert await settle_machine(tx, name="gw-2", price_per_hour=3_600_000, seconds=0, at=2.0) == 0
        assert await tx.ledger.spent(project.id) == 91_000
        assert (await tx.ledger.get(machine_key("gw-2"))).state is EntryState.VOID


async def test_nothing_is_reserved_past_the_budget(store: Store, world):
    project, job, quoted = await a_trained_job(store, world, budget=50_000)
    other = await world.job(project.id)
    async with store.begin() as tx:
        await reserve_training(
            tx, project_id=project.id, job_id=job.id, base="seedling", quoted=quoted, at=1.0
        )
        with pytest.raises(BudgetExceeded):
            await reserve_training(
                tx, project_id=project.id, job_id=other.id, base="seedling", quoted=quoted, at=1.0
            )
        assert await tx.ledger.for_job(project.id, other.id) == []
        # A reservation that is there is not asked for its money again.
        await reserve_training(
            tx, project_id=project.id, job_id=job.id, base="seedling", quoted=quoted, at=1.0
        )
        assert (await budget_of(tx, project.id)) == Budget(50_000, 50_000)
        with pytest.raises(NotFound):
            await budget_of(tx, "proj_none")


def an_answer(project_id: str, key: str, amount: int, at: float, **fields) -> LedgerEntry:
    given = {
        "key": key,
        "project_id": project_id,
        "kind": "inference",
        "state": EntryState.OPEN,
        "amount": amount,
        "quantity": {"prompt_tokens": 10, "completion_tokens": 5, "estimated": True},
        "price_version": "1-x",
        "refs": {"model": "ft:a", "base": "seedling", "request": key},
        "created_at": at,
    }
    return LedgerEntry(**{**given, **fields})


async def test_a_bill_has_a_line_for_each_kind_and_model_with_unit_prices(store: Store, world):
    project, job, _ = await a_trained_job(store, world)
    other = await world.project()
    async with store.begin() as tx:
        book = await publish(tx, {"seedling": SEEDLING})
        quoted = quote(book, "seedling", 1_000_000)
        await reserve_training(
            tx, project_id=project.id, job_id=job.id, base="seedling", quoted=quoted, at=1.0
        )
        await settle_training(tx, job_id=job.id, quoted=quoted, tokens=500_000, at=2.0)
        await reserve_machine(
            tx,
            project_id=project.id,
            name="gw-1",
            job_id=job.id,
            provider="local",
            price_per_hour=7200,
            seconds=60,
            at=1.0,
        )
        await settle_machine(tx, name="gw-1", price_per_hour=7200, seconds=30.5, at=2.0)
        for n in range(3):
            await tx.ledger.record(an_answer(project.id, f"a{n}", 7, 3.0, price_version=book.version))
        await reserve(tx, an_answer(project.id, "open", 11, 3.0, price_version=book.version))
        await tx.ledger.record(
            an_answer(project.id, "b", 9, 3.0, price_version="gone", refs={"model": "ft:b"})
        )
        await tx.ledger.record(an_answer(other.id, "c", 99, 3.0))
        whole = await bill(tx, project.id)
        later = await bill(tx, project.id, since=2.5)
        assert (await bill(tx, other.id)).total == 99
    assert [(li.kind, li.model, li.entries, li.amount, li.reserved) for li in whole.lines] == [
        ("inference", "ft:a", 3, 21, 11),
        ("inference", "ft:b", 1, 9, 0),
        ("machine_seconds", "local", 1, 62, 0),
        ("training_tokens", "seedling", 1, 25_000, 0),
    ]
    assert [li.quantity for li in whole.lines] == [
        {"prompt_tokens": 30, "completion_tokens": 15},
        {"prompt_tokens": 10, "completion_tokens": 5},
        {"seconds": 30.5},
        {"trained_tokens": 500_000},
    ]
    assert [[(p.unit, p.amount) for p in li.prices] for li in whole.lines] == [
        [("1M prompt tokens", 20_000), ("1M completion tokens", 40_000)],
        [],
        [("hour", 7200)],
        [("1M trained tokens", 50_000)],
    ]
    assert (whole.total, whole.reserved) == (25_092, 11)
    assert (later.total, len(later.lines)) == (30, 2)


@pytest.mark.parametrize(
    ("total", "weights", "parts"),
    [
        (10, {"a": 1, "b": 1, "c": 1}, {"a": 4, "b": 3, "c": 3}),
        (100, {"a": 1, "b": 3}, {"a": 25, "b": 75}),
        (7, {"a": 0, "b": 2}, {"a": 0, "b": 7}),
        (5, {"a": 0, "b": 0}, {"a": 3, "b": 2}),
        (0, {"a": 4}, {"a": 0}),
        (1, {"a": 1, "b": 999}, {"a": 0, "b": 1}),
    ],
)
def test_a_price_is_split_exactly(total: int, weights: dict[str, int], parts: dict[str, int]):
    assert split(total, weights) == parts


def test_any_split_adds_up():
    numbers = random.Random(3)
    for _ in range(200):
        weights = {str(n): numbers.choice([0, 1, numbers.randint(1, 10**9)]) for n in range(16)}
        total = numbers.randint(0, 10**12)
        parts = split(total, weights)
        assert sum(parts.values()) == total
        assert all(part >= 0 for part in parts.values())
