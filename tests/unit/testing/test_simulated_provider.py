"""What the simulated cloud adds to the contract: its faults and its bill."""

import pytest

from graftwork.compute.port import (
    BadRequest,
    Credential,
    LaunchSpec,
    Market,
    Money,
    Need,
    NoCapacity,
    Spend,
    Unknown,
)
from graftwork.core.states import Observed
from graftwork.testing.fake_clock import FakeClock
from graftwork.testing.simulated_cloud import SimulatedCloud
from graftwork.testing.simulated_provider import SimulatedProvider

NAME = "gw-test-job-1"


def make(**options):
    clock = FakeClock()
    cloud = SimulatedCloud(clock, **options)
    return clock, cloud, SimulatedProvider(cloud)


async def launch(provider, name=NAME, need=None, lasts=36_000.0):
    spec = LaunchSpec(command=["true"], run_uri="r", deadline=provider.cloud.clock.now() + lasts)
    return await provider.launch(name, spec, (await provider.offers(need or Need()))[0])


@pytest.mark.parametrize(
    ("fault", "error", "made"),
    [
        ("launch_no_capacity", NoCapacity, 0),
        ("launch_no_money", Money, 0),
        ("launch_refused", BadRequest, 0),
        ("launch_lost_request", Unknown, 0),
        ("launch_lost_reply", Unknown, 1),
    ],
)
async def test_a_launch_fault_strikes_as_often_as_told(fault, error, made):
    _, cloud, provider = make(unique_names=False)
    setattr(cloud.faults, fault, 2)
    for _ in range(2):
        with pytest.raises(error):
            await launch(provider)
    assert len(cloud.machines) == 2 * made
    await launch(provider)
    assert len(cloud.machines) == 2 * made + 1
    assert cloud.launches == [NAME] * 3


async def test_lost_answers_change_nothing():
    _, cloud, provider = make()
    await launch(provider)
    cloud.faults.terminate_lost = cloud.faults.describe_lost = cloud.faults.find_lost = 1
    for call in (provider.terminate(NAME), provider.describe(NAME), provider.find("gw-")):
        with pytest.raises(Unknown):
            await call
    assert (await provider.describe(NAME)).state is Observed.RUNNING


async def test_a_bad_credential_stops_everything():
    _, cloud, provider = make()
    cloud.faults.bad_credential = True
    for call in (
        provider.offers(Need()),
        provider.find(""),
        provider.describe(NAME),
        provider.terminate(NAME),
    ):
        with pytest.raises(Credential):
            await call


async def test_a_machine_is_requested_provisioned_and_then_runs_and_costs():
    clock, cloud, provider = make(provisioning_seconds=60)
    assert (await launch(provider)).state is Observed.REQUESTED
    await clock.advance(30)
    assert (await provider.describe(NAME)).state is Observed.PROVISIONING
    await clock.advance(30)
    machine = await provider.describe(NAME)
    assert machine.state is Observed.RUNNING and machine.started_at == clock.now()
    await clock.advance(3600)
    assert cloud.machine_seconds() == 3600
    assert await provider.spend(NAME) == machine.price_per_hour


async def test_a_terminated_machine_costs_until_it_is_gone_and_no_longer():
    clock, cloud, provider = make(stop_seconds=10)
    assert isinstance(provider, Spend)
    await launch(provider)
    await clock.advance(100)
    await provider.terminate(NAME)
    assert (await provider.describe(NAME)).state is Observed.RUNNING
    await clock.advance(9)
    await provider.terminate(NAME)
    await clock.advance(1)
    assert (await provider.describe(NAME)).state is Observed.GONE
    await clock.advance(1000)
    assert cloud.machine_seconds() == 110


async def test_a_machine_that_never_ran_costs_nothing():
    clock, cloud, provider = make(provisioning_seconds=60)
    await launch(provider)
    await clock.advance(59)
    await provider.terminate(NAME)
    await clock.advance(100)
    assert cloud.machine_seconds() == 0 and await provider.spend(NAME) == 0


async def test_a_spot_machine_vanishes_and_a_broken_one_stays():
    _, cloud, provider = make()
    spot = Need(gpus=1, markets=(Market.SPOT,))
    assert (await launch(provider, need=spot)).price_per_hour == 900_000
    cloud.take_away(NAME)
    assert (await provider.describe(NAME)).state is Observed.GONE
    await launch(provider, "gw-test-job-2")
    cloud.break_down("gw-test-job-2")
    machine = await provider.describe("gw-test-job-2")
    assert machine.state is Observed.ERROR and machine.message == "The host died."
    assert len(await provider.find("gw-")) == 1


async def test_a_new_machine_can_be_missing_from_the_list_for_a_while():
    clock, cloud, provider = make()
    cloud.faults.blind_seconds = 5
    await launch(provider)
    assert await provider.find("gw-") == []
    assert (await provider.describe(NAME)).state is Observed.RUNNING
    await clock.advance(5)
    assert len(await provider.find("gw-")) == 1


async def test_two_of_one_name_are_listed_oldest_first_and_die_alone():
    clock, _, provider = make(unique_names=False)
    first = await launch(provider)
    await clock.advance(1)
    second = await launch(provider)
    assert [m.id for m in await provider.find("gw-")] == [first.id, second.id]
    assert (await provider.describe(NAME)).id == first.id
    await provider.terminate(NAME, machine_id=first.id)
    assert [m.id for m in await provider.find("gw-")] == [second.id]
    await provider.terminate(NAME)
    assert await provider.find("gw-") == []
