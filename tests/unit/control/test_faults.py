"""The control plane is killed again and again; machines die; providers lie: jobs end the same."""

from __future__ import annotations

import asyncio

import pytest
from controlhouse import STEPS, TOKENS, Crash, Fuse, House, ends_well, walk_to

from graftwork.billing import machine_key
from graftwork.control.reconcilers.base import LeaseLost
from graftwork.core.states import MachineState, Phase, Want
from graftwork.runs.documents import RunError


@pytest.mark.parametrize("every", [2, 3, 4, 6])
async def test_killed_again_and_again_a_job_ends_the_same(both: House, every: int):
    """Each new control plane dies after so many points; at 2 it dies right after each commit."""
    house = both
    house.fuse = Fuse(every)
    house.boot()
    job_id = (await house.create()).job.id
    deaths: list[str] = []
    while True:
        try:
            job = await house.until(job_id)
            break
        except Crash as crash:
            deaths.append(str(crash))
            house.fuse = Fuse(every)
            house.boot()
            await house.clock.advance(house.pace.lease)  # until the dead one's claims have run out
    await ends_well(house, job)
    assert len(deaths) > 3


async def test_two_control_planes_share_the_jobs_and_nothing_is_done_twice(both: House):
    first = both.jobs
    both.boot()
    created = [await both.create(suffix=f"codes-{n}") for n in range(2)]
    for _ in range(60):
        await asyncio.gather(first.once(), both.jobs.once(), first.once())
        await both.turn()
        jobs = [await both.job(view.job.id) for view in created]
        if all(job.phase is Phase.DONE for job in jobs):
            break
    assert [job.phase for job in jobs] == [Phase.DONE] * 2
    assert len(both.cloud.machines) == 2
    bill = await both.services.billing.bill(both.project.id)
    [tokens] = [line for line in bill.lines if line.kind == "training_tokens"]
    assert (tokens.entries, tokens.quantity["trained_tokens"]) == (2, 2 * STEPS * TOKENS)


async def test_a_dead_machine_is_replaced_and_the_job_goes_on(both: House):
    both.script.die_at = {1: 4}
    job = await both.until((await both.create()).job.id)
    await ends_well(both, job, machines=2)
    assert "An attempt was lost (its machine ended without a result (exit code 137)" in await both.log(job.id)
    assert job.fence == 2
    async with both.store.read() as tx:
        runs = await tx.runs.list(job.id)
        seconds = [await tx.ledger.get(machine_key(run.machine)) for run in runs]
    assert [entry is not None and entry.quantity["seconds"] > 0 for entry in seconds] == [True, True]


async def test_a_machine_that_dies_twice_without_progress_fails_the_job_readably(house: House):
    house.script.die_at = {1: 3, 2: 3}
    job = await house.until((await house.create()).job.id)
    assert job.phase is Phase.FAILED
    assert job.error is not None
    assert job.error["code"] == "training_lost"
    assert "2 times without progress, at step 2" in job.error["message"]
    assert "exit code 137" in job.error["message"]
    await nothing_is_left(house, job.id)
    assert (await house.services.billing.bill(house.project.id)).reserved == 0


async def test_the_last_lines_of_the_log_are_told(house: House):
    house.script.die_at = {1: 2, 2: 2}
    created = await house.create()
    while (await house.job(created.job.id)).fence < 2 or not house.living():
        await house.turn()
    house.cloud.write(house.living()[0].name, "allocating", "CUDA out of memory")
    job = await house.until(created.job.id)
    assert job.error is not None
    assert job.error["message"].endswith("The last lines of its log:\nallocating\nCUDA out of memory")


async def test_progress_between_losses_forgives_them(house: House):
    house.script.steps = 8
    house.script.die_at = {1: 3, 2: 5, 3: 7}
    job = await house.until((await house.create()).job.id)
    assert job.phase is Phase.DONE, await house.log(job.id)
    assert job.fence == 4
    assert job.losses <= 1


@pytest.mark.parametrize(
    ("param", "told"),
    [("learning_rate_multiplier", "learning_rate_multiplier"), (None, "training_file")],
)
async def test_an_error_of_the_customers_ends_the_job_at_once(house: House, param: str | None, told: str):
    house.script.error = RunError(
        code="loss_not_finite", message="Training has diverged.", kind="user", param=param
    )
    job = await house.until((await house.create()).job.id)
    assert job.error == {
        "code": "loss_not_finite",
        "message": "Training has diverged.",
        "param": told,
    }
    assert len(house.cloud.machines) == 1
    bill = await house.services.billing.bill(house.project.id)
    assert [line.kind for line in bill.lines if line.amount] == ["machine_seconds"]


async def test_a_lost_launch_reply_makes_no_second_machine(house: House):
    house.cloud.unique_names = False
    house.cloud.faults.launch_lost_reply = 1
    job = await house.until((await house.create()).job.id)
    await ends_well(house, job)


async def test_a_launch_nobody_answers_is_looked_for_before_it_is_tried_again(house: House):
    house.cloud.faults.launch_lost_request = 1
    job = await house.until((await house.create()).job.id)
    assert "The provider's answer was unclear" in await house.log(job.id)
    assert house.cloud.launches == [house.cloud.machines[0].name] * 2
    await ends_well(house, job)


async def test_twins_of_a_blind_provider_are_destroyed(house: House):
    house.cloud.unique_names = False
    house.cloud.faults.launch_lost_reply = 1
    house.cloud.faults.blind_seconds = 3.0
    job = await house.until((await house.create()).job.id, Phase.TRAINING)
    assert len(house.living()) == 2
    await house.clock.advance(4)
    await house.sweeper.once()
    [kept] = house.living()
    assert kept is house.cloud.machines[0]
    await house.until(job.id, Phase.DONE)


async def test_without_capacity_the_job_waits_and_says_so_once(house: House):
    house.cloud.faults.launch_no_capacity = 3
    job = await house.until((await house.create()).job.id, turns=90)
    assert job.phase is Phase.DONE
    log = await house.log(job.id)
    assert "Waiting for a machine: No machine was free" in log
    assert job.fence == 4
    assert len(house.cloud.machines) == 1
    async with house.store.read() as tx:
        assert all(m.state is MachineState.GONE for m in await tx.machines.for_job(job.id))


async def test_jobs_wait_for_the_only_slot(house: House):
    house.script.steps = 12
    first = await house.create()
    await house.until(first.job.id, Phase.TRAINING)
    second = await house.create(suffix="other")
    await house.until(second.job.id, Phase.QUEUED)
    await house.turn()
    waiting = await house.job(second.job.id)
    assert waiting.phase is Phase.QUEUED
    assert (await house.log(second.job.id)).count("Waiting for a free machine.") == 1
    assert len(house.living()) == 1
    await house.until(second.job.id, turns=90)
    assert (await house.log(second.job.id)).count("Waiting for a free machine.") == 1


async def test_an_unclear_description_is_not_read_as_a_loss(house: House):
    job = await house.until((await house.create()).job.id, Phase.TRAINING)
    house.cloud.faults.describe_lost = 2
    job = await house.until(job.id)
    assert job.fence == 1


async def test_a_termination_that_is_not_confirmed_is_asked_for_again(house: House):
    job = await house.until((await house.create()).job.id, Phase.TRAINING)
    house.cloud.faults.terminate_lost = 2
    await house.services.jobs.cancel(house.project.id, job.id)
    await house.turn()
    assert (await house.job(job.id)).phase is Phase.TRAINING
    job = await house.until(job.id)
    assert job.phase is Phase.CANCELLED
    await nothing_is_left(house, job.id)


async def test_a_lost_lease_throws_the_work_away(house: House):
    created = await house.create()
    async with house.store.begin() as tx:
        [claim] = await tx.jobs.claim("slow", 1, house.pace.lease)
    step = await house.jobs.act(claim.item)
    await house.clock.advance(house.pace.lease + 1)
    await house.turn()  # another takes the job over
    before = await house.job(created.job.id)
    with pytest.raises(LeaseLost):
        await house.jobs.apply(claim, step)
    assert await house.job(created.job.id) == before


async def test_a_trainer_that_shows_no_life_is_given_up(house: House):
    house.script.silent = True
    house.limits = type(house.limits)(stall=60, deadline=30)
    house.boot()
    job = await house.until((await house.create()).job.id, turns=400)
    assert job.phase is Phase.FAILED
    assert job.error is not None
    assert job.error["code"] == "training_lost"
    await nothing_is_left(house, job.id)


@pytest.mark.parametrize(
    "phase",
    [
        Phase.VALIDATING,
        Phase.PLANNING,
        Phase.QUEUED,
        Phase.PROVISIONING,
        Phase.PREPARING,
        Phase.TRAINING,
        Phase.EVALUATING,
        Phase.GATING,
        Phase.REGISTERING,
        Phase.DEPLOYING,
    ],
)
async def test_a_cancel_leaves_no_machine_in_any_phase(house: House, phase: Phase):
    created = await house.create()
    await walk_to(house, created.job.id, phase)
    view = await house.services.jobs.cancel(house.project.id, created.job.id)
    assert view.status == "cancelled"
    job = await house.until(created.job.id)
    assert job.phase is Phase.CANCELLED
    assert job.finished_at is not None
    await nothing_is_left(house, job.id)
    assert (await house.services.billing.bill(house.project.id)).reserved == 0
    assert (await house.services.jobs.cancel(house.project.id, job.id)).status == "cancelled"
    for _ in range(3):
        await house.turn()
    assert not await house.engine.adapters()


async def test_a_paused_job_holds_no_machine_and_goes_on_where_it_was(house: House):
    house.script.steps = 8
    job = await house.until((await house.create()).job.id, Phase.TRAINING)
    await house.services.jobs.pause(house.project.id, job.id)
    job = await house.until(job.id, Phase.PAUSED)
    assert not house.living()
    for _ in range(5):
        await house.turn()
    assert (await house.job(job.id)).phase is Phase.PAUSED
    view = await house.services.jobs.resume(house.project.id, job.id)
    assert view.job.want is Want.RUN
    job = await house.until(job.id)
    assert job.phase is Phase.DONE
    assert job.fence == 2
    assert job.losses == 0
    assert job.trained_tokens == 800


async def test_a_server_that_was_away_resumes_the_paused_attempt(house: House):
    job = await house.until((await house.create()).job.id, Phase.TRAINING)
    [trainer] = house.trainers.values()
    trainer.machine.exit_code = trainer.pause("signal")
    trainer.machine.ended_at = house.clock.now()
    house.boot()
    await ends_well(house, await house.until(job.id), machines=2)
    assert "Training was interrupted" in await house.log(job.id)


async def nothing_is_left(house: House, job_id: str) -> None:
    """No machine of the job lives, and all are known to be gone."""
    assert not house.living()
    async with house.store.read() as tx:
        assert all(m.state is MachineState.GONE for m in await tx.machines.for_job(job_id))
