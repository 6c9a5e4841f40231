"""The contracts in the docstrings of ``compute/port.py``, held against every provider."""

import asyncio
from dataclasses import replace

import pytest

from graftwork.compute.adoption import find_one, launch_once
from graftwork.compute.port import (
    OFFER_LIFETIME,
    BadRequest,
    Deadlines,
    LaunchSpec,
    Market,
    Need,
    NoCapacity,
    StaleOffer,
)
from graftwork.core.states import Observed

NAME = "gw-test-job-1"


def a_spec(bench, **changes):
    spec = LaunchSpec(command=["sleep", "1000"], run_uri="file:///run", deadline=bench.now() + 3600)
    return replace(spec, **changes)


async def names(bench, prefix="gw-test-"):
    return [machine.name for machine in await bench.provider.find(prefix)]


async def test_offers_fit_carry_their_time_and_come_cheapest_first(bench):
    offers = await bench.provider.offers(Need(cores=1, markets=(Market.ON_DEMAND, Market.SPOT)))
    assert offers
    assert [o.price_per_hour for o in offers] == sorted(o.price_per_hour for o in offers)
    for offer in offers:
        assert offer.provider == bench.provider.name
        assert offer.cores >= 1
        assert abs(offer.fetched_at - bench.now()) < 5


@pytest.mark.parametrize(
    "need",
    [
        Need(cores=10_000),
        Need(memory=1 << 60),
        Need(gpus=64),
        Need(gpu=("none",)),
        Need(regions=("moon",)),
        Need(markets=()),
    ],
)
async def test_a_need_that_can_never_be_served_has_no_offers(bench, need):
    assert await bench.provider.offers(need) == []


async def test_a_machine_is_launched_runs_and_is_found_by_prefix(bench, until):
    launched = await bench.launch(NAME)
    assert launched.name == NAME
    assert launched.state in {Observed.REQUESTED, Observed.PROVISIONING, Observed.STARTING, Observed.RUNNING}
    running = await until(NAME, Observed.RUNNING)
    assert running.id == launched.id
    assert running.created_at <= running.started_at <= bench.now()
    assert running.ended_at is None and running.exit_code is None
    assert await names(bench) == [NAME]
    assert await names(bench, "gw-other-") == []


async def test_the_price_of_the_offer_stays_with_the_machine(bench, offer):
    machine = await bench.launch(NAME)
    assert machine.price_per_hour == offer.price_per_hour
    assert (await bench.provider.describe(NAME)).price_per_hour == offer.price_per_hour


async def test_the_same_name_again_adopts_the_first_machine(bench):
    first = await bench.launch(NAME)
    second = await bench.launch(NAME, exits=3)
    assert second.id == first.id
    assert await names(bench) == [NAME]


async def test_launches_of_one_name_at_once_make_one_machine(bench, offer):
    spec = a_spec(bench)
    made = await asyncio.gather(*(bench.provider.launch(NAME, spec, offer) for _ in range(5)))
    assert len({machine.id for machine in made}) == 1
    assert await names(bench) == [NAME]


async def test_launch_once_adopts_too(bench, offer):
    first = await launch_once(bench.provider, NAME, a_spec(bench), offer)
    second = await launch_once(bench.provider, NAME, a_spec(bench), offer)
    assert second.id == first.id == (await find_one(bench.provider, NAME)).id
    assert await find_one(bench.provider, "gw-test-job-2") is None


async def test_a_name_that_is_a_prefix_of_another_is_not_taken_for_it(bench, offer):
    await bench.launch("gw-test-job-11")
    assert await find_one(bench.provider, "gw-test-job-1") is None


async def test_an_unknown_machine_is_gone_silent_and_terminated_with_success(bench):
    assert (await bench.provider.describe(NAME)).state is Observed.GONE
    await bench.provider.terminate(NAME)
    page = await bench.provider.logs(NAME)
    assert page.lines == []
    assert (await bench.provider.logs(NAME, page.cursor)).lines == []
    assert await names(bench) == []


async def test_a_terminated_machine_goes_and_stays_gone(bench, until):
    await bench.launch(NAME)
    await until(NAME, Observed.RUNNING)
    await bench.provider.terminate(NAME)
    await bench.provider.terminate(NAME)
    await until(NAME, Observed.GONE)
    assert await names(bench) == []
    await bench.provider.terminate(NAME)
    assert (await bench.provider.describe(NAME)).state is Observed.GONE


async def test_another_machines_id_terminates_nothing(bench, until):
    machine = await bench.launch(NAME)
    await until(NAME, Observed.RUNNING)
    await bench.provider.terminate(NAME, machine_id="another")
    await bench.pass_time(0.3)
    assert (await bench.provider.describe(NAME)).state is Observed.RUNNING
    await bench.provider.terminate(NAME, machine_id=machine.id)
    await until(NAME, Observed.GONE)


@pytest.mark.parametrize("code", [0, 7])
async def test_a_command_that_ended_is_exited_and_listed_until_terminated(bench, until, code):
    await bench.launch(NAME, exits=code)
    ended = await until(NAME, Observed.EXITED)
    assert ended.exit_code == code
    assert ended.message
    assert ended.ended_at is not None and ended.ended_at <= bench.now()
    assert await names(bench) == [NAME]
    await bench.provider.terminate(NAME)
    await until(NAME, Observed.GONE)
    assert await names(bench) == []


async def test_the_deadline_ends_a_machine(bench, until):
    await bench.launch(NAME, lasts=0.5)
    deadline = bench.now() + 0.5
    ended = await until(NAME, Observed.EXITED)
    assert deadline - 0.5 <= ended.ended_at < deadline + 5
    assert "deadline" in ended.message


async def test_a_deadline_can_be_moved_both_ways(bench, until):
    assert isinstance(bench.provider, Deadlines)
    await bench.launch(NAME, lasts=0.7)
    await bench.provider.set_deadline(NAME, bench.now() + 3600)
    await bench.pass_time(1.5)
    assert (await bench.provider.describe(NAME)).state is Observed.RUNNING
    await bench.provider.set_deadline(NAME, bench.now() - 1)
    await until(NAME, Observed.EXITED)
    await bench.provider.set_deadline(NAME, bench.now() + 3600)  # too late, and no error
    await bench.provider.set_deadline("gw-test-nobody", bench.now())
    assert (await bench.provider.describe(NAME)).state is Observed.EXITED


async def test_a_stale_offer_buys_nothing_but_still_adopts(bench, offer):
    stale = replace(offer, fetched_at=bench.now() - OFFER_LIFETIME - 1)
    with pytest.raises(StaleOffer):
        await bench.provider.launch(NAME, a_spec(bench), stale)
    assert await names(bench) == []
    made = await bench.provider.launch(NAME, a_spec(bench), offer)
    assert (await bench.provider.launch(NAME, a_spec(bench), stale)).id == made.id


@pytest.mark.parametrize("name", ["", "UPPER", "../escape", "a/b", "-dash", "a b", "x" * 121, "naïve"])
async def test_a_name_that_cannot_be_is_refused_everywhere(bench, offer, name):
    for call in (
        bench.provider.launch(name, a_spec(bench), offer),
        bench.provider.describe(name),
        bench.provider.terminate(name),
        bench.provider.logs(name),
    ):
        with pytest.raises(BadRequest):
            await call


async def test_an_order_that_can_never_be_is_refused_and_makes_nothing(bench, offer):
    for spec, given in (
        (a_spec(bench, command=[]), offer),
        (a_spec(bench, deadline=bench.now() - 1), offer),
        (a_spec(bench), replace(offer, provider="elsewhere", id="elsewhere")),
    ):
        with pytest.raises(BadRequest):
            await bench.provider.launch(NAME, spec, given)
    assert await names(bench) == []


async def test_a_full_provider_says_so_and_has_room_again_after_an_end(bench, offer, until):
    await bench.launch("gw-test-a-1")
    await bench.launch("gw-test-b-1")
    with pytest.raises(NoCapacity):
        await bench.launch("gw-test-c-1")
    assert await names(bench) == ["gw-test-a-1", "gw-test-b-1"]
    await bench.provider.terminate("gw-test-a-1")
    await until("gw-test-a-1", Observed.GONE)
    await bench.launch("gw-test-c-1")
    assert await names(bench) == ["gw-test-b-1", "gw-test-c-1"]


async def test_a_log_is_paged_by_cursor_and_a_cursor_can_be_repeated(bench, until):
    await bench.launch(NAME, says=["one", "two", "three"], exits=0)
    await until(NAME, Observed.EXITED)
    first = await bench.provider.logs(NAME)
    assert first.lines == ["one", "two", "three"]
    rest = await bench.provider.logs(NAME, first.cursor)
    assert rest.lines == [] and rest.cursor == first.cursor
    assert await bench.provider.logs(NAME) == first


async def test_a_restarted_control_plane_finds_everything_again(bench, until, said):
    launched = await bench.launch(NAME, says=["hello"])
    await until(NAME, Observed.RUNNING)
    bench.provider = bench.restarted()
    assert (await find_one(bench.provider, NAME)).id == launched.id
    assert await said(NAME, 1) == ["hello"]
    await bench.provider.terminate(NAME)
    await until(NAME, Observed.GONE)
