"""One name, at most one machine, whatever the provider answers and wherever the caller dies."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graftwork.compute.adoption import find_one, launch_once
from graftwork.compute.port import LaunchSpec, MachineError, Need, NoCapacity, Unknown
from graftwork.testing.fake_clock import FakeClock
from graftwork.testing.simulated_cloud import SimulatedCloud
from graftwork.testing.simulated_provider import SimulatedProvider

NAME = "gw-test-job-1"


def make(**options):
    cloud = SimulatedCloud(FakeClock(), unique_names=False, **options)
    return cloud, SimulatedProvider(cloud)


async def launch(provider):
    spec = LaunchSpec(command=["true"], run_uri="r", deadline=provider.cloud.clock.now() + 1e6)
    return await launch_once(provider, NAME, spec, (await provider.offers(Need()))[0])


async def test_a_lost_reply_is_looked_up_and_adopted():
    cloud, provider = make()
    cloud.faults.launch_lost_reply = 1
    machine = await launch(provider)
    assert [m.id for m in cloud.machines] == [machine.id]


async def test_a_lost_request_stays_unknown_and_the_next_call_makes_the_machine():
    cloud, provider = make()
    cloud.faults.launch_lost_request = 1
    with pytest.raises(Unknown):
        await launch(provider)
    assert cloud.machines == []
    await launch(provider)
    assert len(cloud.machines) == 1


async def test_no_launch_without_a_look_up():
    cloud, provider = make()
    cloud.faults.find_lost = 1
    with pytest.raises(Unknown):
        await launch(provider)
    assert cloud.launches == []


async def test_a_clear_refusal_is_passed_on_without_another_try():
    cloud, provider = make()
    cloud.faults.launch_no_capacity = 1
    with pytest.raises(NoCapacity):
        await launch(provider)
    assert cloud.launches == [NAME]


async def test_of_two_machines_the_oldest_is_kept():
    cloud, provider = make()
    cloud.faults.launch_lost_reply, cloud.faults.find_lost = 1, 0
    cloud.faults.blind_seconds = 5
    with pytest.raises(Unknown):
        await launch(provider)
    await cloud.clock.advance(1)
    second = await launch(provider)  # the first is not to be seen yet
    assert len(cloud.living(NAME)) == 2
    await cloud.clock.advance(10)
    kept = await find_one(provider, NAME)
    assert kept.id == "sim-1" != second.id
    assert [m.id for m in cloud.living(NAME)] == ["sim-1"]


FAULTS = ("launch_lost_reply", "launch_lost_request", "launch_no_capacity", "find_lost", "terminate_lost")


@settings(max_examples=60, deadline=None)
@given(
    rounds=st.lists(st.tuples(st.sampled_from(FAULTS), st.integers(0, 3), st.integers(0, 4)), max_size=12),
    blind=st.integers(0, 3),
)
async def test_after_any_faults_one_machine_is_left(rounds, blind):
    cloud, provider = make()
    cloud.faults.blind_seconds = blind
    for fault, times, seconds in rounds:
        vars(cloud.faults)[fault] = times
        await cloud.clock.advance(seconds)
        try:
            await launch(provider)
        except MachineError:
            continue
    for fault in FAULTS:
        vars(cloud.faults)[fault] = 0
    await launch(provider)
    await cloud.clock.advance(blind)
    kept = await find_one(provider, NAME)
    assert [m.id for m in cloud.living(NAME)] == [kept.id] == [cloud.present(NAME)[0].id]
