"""Ways in which a job could wait for ever, or be billed for what it did not get."""

from __future__ import annotations

from dataclasses import replace

import pytest
from controlhouse import House, walk_to

from graftwork.billing import machine_key
from graftwork.core.errors import InvalidRequest, Unavailable
from graftwork.core.nouns import LedgerEntry
from graftwork.core.states import EntryState, Phase, Verdict
from graftwork.testing.fake_engine import FakeEngine


async def test_a_version_promoted_by_hand_does_not_hold_up_the_cancel(house: House):
    job = (await house.create()).job
    await walk_to(house, job.id, Phase.DEPLOYING)
    await house.services.adapters.promote(house.project.id, "codes", 1, actor="owner")
    await house.services.jobs.cancel(house.project.id, job.id)
    job = await house.until(job.id)
    assert job.phase is Phase.CANCELLED
    view = await house.services.adapters.version(house.project.id, "codes@production")
    assert view.version.deleted_at is None


async def test_a_cancel_that_was_accepted_is_kept_though_the_job_fails_meanwhile(house: House):
    created = await house.create(b'{"messages": []}\n')
    async with house.store.begin() as tx:
        [claim] = await tx.jobs.claim("test", 1, house.pace.lease)
    step = await house.jobs.act(claim.item)
    assert step.move is Phase.FAILED
    await house.services.jobs.cancel(house.project.id, created.job.id)
    applied = await house.jobs.apply(claim, step)
    async with house.store.begin() as tx:
        await tx.jobs.release(applied, 0.0)
    assert (await house.until(created.job.id)).phase is Phase.CANCELLED


async def test_the_cap_counts_all_machines_of_a_job(house: House):
    house.script.die_at = {1: 4}
    job_id = (await house.create(options={"max_cost": "1"})).job.id
    while (job := await house.job(job_id)).fence < 2 or job.phase is not Phase.TRAINING:
        await house.turn()
    await house.turn()
    async with house.store.read() as tx:
        first, _ = await tx.machines.for_job(job_id)
        paid = await tx.ledger.get(machine_key(first.name))
    assert paid is not None
    assert paid.amount > 0
    control = house.ctx.reader(job).control()
    assert control is not None
    assert control.max_cost == 1_000_000 - paid.amount


async def test_weights_let_go_by_another_job_are_placed_again(house: House):
    created = (await house.create()).job
    await walk_to(house, created.id, Phase.EVALUATING)
    job = await house.job(created.id)
    await house.jobs.once()
    async with house.store.begin() as tx:
        placement = await tx.placements.by_weights((job.plan or {})["trained"]["weights"])
        assert placement is not None
        await tx.placements.unwant(placement.id)
    job = await house.until(job.id)
    assert job.phase is Phase.DONE
    view = await house.services.adapters.version(house.project.id, "codes@1")
    assert view.version.verdict is Verdict.PASS


class Stillborn(FakeEngine):
    """An engine that does not start."""

    async def ensure(self, *arguments: object) -> object:
        raise Unavailable("No memory for the weights.")


async def test_a_job_says_what_it_waits_for_when_no_engine_starts(house: House):
    house.engine = Stillborn()
    job = await house.until((await house.create()).job.id, Phase.EVALUATING)
    for _ in range(8):
        await house.turn()
    assert (await house.log(job.id)).count("which does not start: No memory for the weights.") == 1
    await house.services.jobs.cancel(house.project.id, job.id)
    assert (await house.until(job.id)).phase is Phase.CANCELLED


async def test_a_machine_that_cannot_be_ended_does_not_stop_the_sweep(house: House):
    job = await house.until((await house.create()).job.id, Phase.TRAINING)
    entry = LedgerEntry(
        key="left",
        project_id=job.project_id,
        kind="inference",
        state=EntryState.OPEN,
        amount=5,
        quantity={},
        price_version="p",
        refs={},
        created_at=house.clock.now(),
    )
    async with house.store.begin() as tx:
        await tx.ledger.reserve(entry)
    await house.clock.advance(3000)
    house.cloud.faults.terminate_lost = 1
    await house.sweeper.once()
    async with house.store.read() as tx:
        left = await tx.ledger.get("left")
    assert left is not None
    assert left.state is EntryState.VOID


async def test_time_that_we_were_away_is_not_billed(house: House):
    job = await house.until((await house.create()).job.id, Phase.TRAINING)
    async with house.store.read() as tx:
        [machine] = await tx.machines.for_job(job.id)
    house.cloud.machines.clear()  # ended by its provider, who keeps no record
    await house.clock.advance(100_000)
    await house.turn()
    async with house.store.read() as tx:
        entry = await tx.ledger.get(machine_key(machine.name))
    assert entry is not None
    assert 0 < entry.quantity["seconds"] <= machine.deadline - (machine.launched_at or 0.0)


async def test_a_request_that_comes_again_gets_its_job_though_the_file_is_gone(house: House):
    files = {"training_file": (await house.upload()).id, "validation_file": None}
    first = await house.create(idempotency_key="k", **files)
    await house.services.jobs.cancel(house.project.id, first.job.id)
    await house.until(first.job.id)
    await house.services.files.delete(house.project.id, files["training_file"])
    again = await house.create(idempotency_key="k", **files)
    assert again.job.id == first.job.id


@pytest.mark.parametrize("suffix", ["客服", "---", "", "seedling", "Seedling"])
async def test_a_suffix_that_names_no_adapter_is_refused(house: House, suffix: str):
    with pytest.raises(InvalidRequest) as caught:
        await house.create(suffix=suffix)
    assert caught.value.param == "suffix"
    assert caught.value.fix


async def test_a_job_that_fits_on_no_machine_fails_before_anything_is_bought(house: House):
    house.cloud.catalogue["cpu"] = replace(house.cloud.catalogue["cpu"], memory=200 << 20)
    job = await house.until((await house.create()).job.id)
    assert job.phase is Phase.FAILED
    assert job.error is not None
    assert job.error["code"] == "does_not_fit"
    assert "the largest machine on offer has 0.2 GiB" in job.error["message"]
    assert "max_length" in job.error["message"]
    assert not house.cloud.machines


async def test_steps_are_split_until_they_fit(house: House):
    wide = {"hyperparameters": {"batch_size": 16}, "options": {"max_length": 512}}
    whole = await house.until((await house.create(**wide)).job.id)
    assert whole.plan is not None
    needed = whole.plan["estimate"]["memory_bytes"]
    house.cloud.catalogue["cpu"] = replace(house.cloud.catalogue["cpu"], memory=needed - 1)
    job = await house.until((await house.create(**wide)).job.id)
    assert job.phase is Phase.DONE, await house.log(job.id)
    assert job.plan is not None
    schedule = job.plan["spec"]["schedule"]
    assert (schedule["batch_size"], schedule["accumulation"]) == (16, 2)
    assert "fits" in schedule["explained"]["accumulation"]


async def test_a_job_goes_to_the_cheapest_machine_that_it_fits_on(house: House):
    offer = house.cloud.catalogue["cpu"]
    house.cloud.catalogue["small"] = replace(offer, id="small", memory=200 << 20, price_per_hour=1)
    job = await house.until((await house.create()).job.id)
    assert job.phase is Phase.DONE, await house.log(job.id)
    async with house.store.read() as tx:
        [machine] = await tx.machines.for_job(job.id)
    assert machine.price_per_hour == offer.price_per_hour
