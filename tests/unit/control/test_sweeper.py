"""The sweeper: what nobody wants is given back, and nothing else is touched."""

from __future__ import annotations

from controlhouse import House

from graftwork.compute.port import LaunchSpec, Need
from graftwork.core.nouns import LedgerEntry
from graftwork.core.states import EntryState, MachineState, Phase
from graftwork.testing.simulated_provider import SimulatedProvider


async def _launch(house: House, name: str) -> None:
    provider = SimulatedProvider(house.cloud)
    [offer] = await provider.offers(Need())
    spec = LaunchSpec(command=["x", "y", "/x/z#1"], run_uri="/x/z", deadline=house.clock.now() + 9e9)
    await provider.launch(name, spec, offer)


def _names(house: House) -> set[str]:
    return {machine.name for machine in house.living()}


async def test_a_machine_under_our_prefix_without_an_intent_is_destroyed_after_a_grace(house: House):
    for name in ("gw-test-stray-1", "gw-other-stray-1", "someone-elses"):
        await _launch(house, name)
    await house.sweeper.once()
    assert _names(house) == {"gw-test-stray-1", "gw-other-stray-1", "someone-elses"}
    await house.clock.advance(301)
    assert await house.sweeper.once() == 1
    assert _names(house) == {"gw-other-stray-1", "someone-elses"}


async def test_machines_of_running_jobs_are_left_alone(house: House):
    job = await house.until((await house.create()).job.id, Phase.TRAINING)
    assert await house.sweeper.once() == 0
    assert len(house.living()) == 1
    await house.until(job.id, Phase.DONE)


async def test_a_machine_its_job_forgot_is_closed_and_paid(house: House):
    job = await house.until((await house.create()).job.id, Phase.TRAINING)
    async with house.store.begin() as tx:
        [claim] = await tx.jobs.claim("other", 1, 30)
        await tx.jobs.apply(claim, move=Phase.CANCELLED)
    assert await house.sweeper.once() == 1
    assert not house.living()
    async with house.store.read() as tx:
        [machine] = await tx.machines.for_job(job.id)
        entries = await tx.ledger.for_job(house.project.id, job.id)
    assert machine.state is MachineState.GONE
    [seconds] = [entry for entry in entries if entry.kind == "machine_seconds"]
    assert seconds.state is EntryState.SETTLED
    assert seconds.quantity["seconds"] > 0


async def test_a_machine_past_its_deadline_is_terminated_and_its_job_goes_on(house: House):
    house.script.steps = 8
    job = await house.until((await house.create()).job.id, Phase.TRAINING)
    [machine] = house.cloud.machines
    machine.deadline += 9e9  # a provider that does not keep deadlines
    await house.clock.advance(1000)
    assert await house.sweeper.once() == 1
    assert not house.living()
    job = await house.until(job.id)
    assert job.phase is Phase.DONE
    assert job.fence == 2


async def test_reservations_nobody_will_settle_are_released(house: House):
    def entry(key: str, **refs: str) -> LedgerEntry:
        return LedgerEntry(
            key=key,
            project_id=house.project.id,
            kind="inference" if "request" in refs else "training_tokens",
            state=EntryState.OPEN,
            amount=500,
            quantity={},
            price_version="1",
            refs=refs,
            created_at=house.clock.now(),
        )

    job = await house.create()
    async with house.store.begin() as tx:
        await tx.ledger.reserve(entry("lost", request="r"))
        await tx.ledger.reserve(entry("job", job=job.job.id))
        await tx.ledger.reserve(entry("gone", job="ftjob-gone"))
    assert await house.sweeper.once() == 0
    await house.clock.advance(1801)
    async with house.store.begin() as tx:
        await tx.ledger.reserve(entry("fresh", request="r"))
    assert await house.sweeper.once() == 2
    async with house.store.read() as tx:
        states = {key: await tx.ledger.get(key) for key in ("lost", "job", "gone", "fresh")}
    assert {key: found and found.state.value for key, found in states.items()} == {
        "lost": "void",
        "job": "open",
        "gone": "void",
        "fresh": "open",
    }


async def test_a_provider_that_does_not_answer_stops_nobody(house: House):
    await _launch(house, "gw-test-stray-1")
    await house.clock.advance(301)
    house.cloud.faults.find_lost = 1
    assert await house.sweeper.once() == 0
    assert await house.sweeper.once() == 1
