"""Jobs that share a machine: coming aboard, leaving, crashes, and who pays what."""

from __future__ import annotations

from typing import Any

import pytest
from controlhouse import PRICE, STEPS, TOKENS, Crash, Fuse, House, Script, walk_to

from graftwork.billing import training_key
from graftwork.control.reconcilers.jobs.context import Limits
from graftwork.control.services.requests import JobRequest
from graftwork.core.money import seconds_cost
from graftwork.core.nouns import Job, LedgerEntry, Organization, Project
from graftwork.core.states import EntryState, MachineState, Phase
from graftwork.runs.documents import RunError


@pytest.fixture
async def company(house: House) -> House:
    """A control plane with one slot whose machines may be shared."""
    house.limits = Limits()
    house.boot()
    return house


async def other_project(house: House) -> Project:
    """A second tenant."""
    organization = Organization(id="org-other", name="Other", created_at=1.0)
    project = Project(id="proj_other", organization_id=organization.id, name="second", created_at=1.0)
    async with house.store.begin() as tx:
        await tx.organizations.create(organization)
        await tx.projects.create(project)
    return project


async def create(house: House, project: Project, **fields: object) -> Job:
    """A job of a project."""
    files = [
        await house.services.files.create(project.id, filename=name, purpose="fine-tune", content=content)
        for name, content in (("train.jsonl", _rows(0)), ("valid.jsonl", _rows(500)))
    ]
    request = JobRequest(
        model="seedling",
        training_file=files[0].id,
        validation_file=files[1].id,
        suffix="codes",
        seed=1,
        **fields,
    )
    return (await house.services.jobs.create(project.id, request)).job


def _rows(start: int) -> bytes:
    from controlhouse import rows

    return rows(30, start)


async def job_of(house: House, job: Job) -> Job:
    """As it is now, of any project."""
    async with house.store.read() as tx:
        found = await tx.jobs.any_get(job.id)
    assert found is not None
    return found


async def until(house: House, jobs: list[Job], *phases: Phase, turns: int = 80) -> list[Job]:
    """Turn until all jobs are in one of ``phases`` (any end, if none is given)."""
    wanted = phases or (Phase.DONE, Phase.FAILED, Phase.CANCELLED)
    for _ in range(turns):
        now = [await job_of(house, job) for job in jobs]
        if all(job.phase in wanted for job in now):
            return now
        await house.turn()
    raise AssertionError([job.phase for job in now])


async def log(house: House, job: Job) -> str:
    """A job's log, oldest line first."""
    events = await house.services.jobs.events_since(job.project_id, job.id, limit=1000)
    return "\n".join(event.message for event in events)


async def parts(house: House, jobs: list[Job]) -> dict[str, list[LedgerEntry]]:
    """What each job was billed for machines."""
    async with house.store.read() as tx:
        return {
            job.id: [
                entry
                for entry in await tx.ledger.for_job(job.project_id, job.id)
                if entry.kind == "machine_seconds"
            ]
            for job in jobs
        }


async def settled_exactly(house: House, jobs: list[Job]) -> None:
    """What the jobs pay for machines adds up to what the machines cost, and nothing is left open."""
    entries = [entry for mine in (await parts(house, jobs)).values() for entry in mine]
    assert all(entry.state is not EntryState.OPEN for entry in entries)
    by_machine: dict[str, list[LedgerEntry]] = {}
    for entry in entries:
        by_machine.setdefault(entry.refs["machine"], []).append(entry)
    for name, mine in by_machine.items():
        async with house.store.read() as tx:
            machine = await tx.machines.get(name)
        assert machine is not None
        assert machine.state is MachineState.GONE
        seconds = sum(float(e.quantity["seconds"]) for e in mine if e.state is EntryState.SETTLED)
        assert sum(entry.amount for entry in mine) == seconds_cost(round(seconds, 6), PRICE)


async def test_two_jobs_of_two_projects_train_on_one_machine(company: House):
    second = await other_project(company)
    jobs = [await create(company, company.project), await create(company, second)]
    done = await until(company, jobs)
    assert [job.phase for job in done] == [Phase.DONE] * 2, await log(company, jobs[0])
    [machine] = company.cloud.machines
    assert company.trainers[machine.id].most == 2
    assert not company.living()
    assert [job.trained_tokens for job in done] == [STEPS * TOKENS] * 2
    mine = await parts(company, done)
    assert all(len(entries) == 1 for entries in mine.values())
    await settled_exactly(company, done)
    for job in done:
        told = await log(company, job)
        assert "Trains together with another run on one machine" in told
        other = next(other for other in done if other is not job)
        assert other.id not in told and "Other" not in told and "Acme" not in told
    joined = [job for job in done if "Joins a machine that trains another run" in await log(company, job)]
    assert len(joined) == 1
    async with company.store.read() as tx:
        entries = [await tx.ledger.get(training_key(job.id)) for job in done]
    assert [entry is not None and entry.state for entry in entries] == [EntryState.SETTLED] * 2


async def test_the_price_is_split_by_tokens_trained(company: House):
    second = await other_project(company)
    jobs = [await create(company, company.project), await create(company, second)]
    company.scripts[jobs[0].id] = Script(steps=12)
    company.scripts[jobs[1].id] = Script(steps=4)
    done = await until(company, jobs)
    mine = await parts(company, done)
    first, late = (mine[job.id][0].amount for job in done)
    assert len(company.cloud.machines) == 1
    assert first == pytest.approx(3 * late, abs=2)
    await settled_exactly(company, done)


async def test_a_late_job_joins_and_an_early_one_leaves(company: House):
    company.script.steps = 8
    first = await create(company, company.project)
    await until(company, [first], Phase.TRAINING)
    late = await create(company, await other_project(company))
    await until(company, [first], Phase.DONE)
    assert (await job_of(company, late)).phase is Phase.TRAINING
    assert len(company.living()) == 1
    done = await until(company, [first, late])
    assert [job.phase for job in done] == [Phase.DONE] * 2
    assert len(company.cloud.machines) == 1
    await settled_exactly(company, done)


async def test_a_cancel_takes_one_run_off_and_leaves_the_other(company: House):
    company.script.steps = 10
    jobs = [await create(company, company.project) for _ in range(2)]
    await until(company, jobs, Phase.TRAINING)
    await company.services.jobs.cancel(company.project.id, jobs[0].id)
    done = await until(company, jobs)
    assert [job.phase for job in done] == [Phase.CANCELLED, Phase.DONE]
    assert (done[1].fence, done[1].losses) == (1, 0)
    assert len(company.cloud.machines) == 1
    assert 0 < (done[0].trained_tokens or 0) < 10 * TOKENS
    await settled_exactly(company, done)


async def test_a_pause_takes_one_run_off_and_it_comes_back_aboard(company: House):
    company.script.steps = 14
    jobs = [await create(company, company.project) for _ in range(2)]
    await until(company, jobs, Phase.TRAINING)
    await company.services.jobs.pause(company.project.id, jobs[1].id)
    await until(company, jobs[1:], Phase.PAUSED)
    assert len(company.living()) == 1
    await company.services.jobs.resume(company.project.id, jobs[1].id)
    done = await until(company, jobs)
    assert [job.phase for job in done] == [Phase.DONE] * 2
    assert [job.fence for job in done] == [1, 2]
    assert [job.trained_tokens for job in done] == [14 * TOKENS] * 2
    assert len(company.cloud.machines) == 1
    await settled_exactly(company, done)


async def test_a_run_that_fails_leaves_its_neighbour_alone(company: House):
    jobs = [await create(company, company.project) for _ in range(2)]
    company.scripts[jobs[0].id] = Script(error=RunError(code="loss_not_finite", message="NaN", kind="user"))
    done = await until(company, jobs)
    assert [job.phase for job in done] == [Phase.FAILED, Phase.DONE]
    assert (done[1].fence, done[1].losses) == (1, 0)
    await settled_exactly(company, done)


async def test_a_crash_of_the_shared_trainer_is_a_loss_of_each_and_each_goes_on(company: House):
    company.script.steps = 8
    jobs = [await create(company, company.project) for _ in range(2)]
    company.scripts[jobs[0].id] = Script(steps=8, die_at={1: 5})
    done = await until(company, jobs)
    assert [job.phase for job in done] == [Phase.DONE] * 2
    assert [job.trained_tokens for job in done] == [8 * TOKENS] * 2
    assert [job.fence for job in done] == [2, 2]
    await settled_exactly(company, done)


async def test_who_brings_a_machine_down_twice_does_it_alone(company: House):
    jobs = [await create(company, company.project) for _ in range(3)]
    company.scripts[jobs[0].id] = Script(die_at={1: 1, 2: 1, 3: 1})
    done = await until(company, jobs, turns=150)
    assert [job.phase for job in done] == [Phase.FAILED, Phase.DONE, Phase.DONE]
    assert done[0].error is not None and done[0].error["code"] == "training_lost"
    await settled_exactly(company, done)


async def test_a_project_that_was_given_less_is_made_room_for(company: House):
    company.limits = Limits(company=2, patience=5)
    company.boot()
    greedy, small = company.project, await other_project(company)
    first = [await create(company, greedy, hyperparameters={"n_epochs": 6}) for _ in range(2)]
    for job in first:
        company.scripts[job.id] = Script(steps=40)
    await until(company, first, Phase.TRAINING)
    late = await create(company, small, hyperparameters={"n_epochs": 1})
    [late] = await until(company, [late], Phase.DONE)
    now = [await job_of(company, job) for job in first]
    assert sorted(job.fence for job in now)[0] == 1, "one of the two was left alone"
    done = await until(company, first, turns=200)
    assert [job.phase for job in done] == [Phase.DONE] * 2
    assert sorted(job.fence for job in done) == [1, 2]
    assert [job.trained_tokens for job in done] == [40 * TOKENS] * 2
    bumped = max(done, key=lambda job: job.fence)
    assert "it makes room for another project's run" in await log(company, bumped)
    assert bumped.losses == 0
    assert len(company.cloud.machines) == 1
    await settled_exactly(company, [*done, late])


async def test_who_cannot_come_aboard_is_not_overtaken_for_ever(company: House):
    company.limits = Limits(patience=10)
    company.boot()
    company.script.steps = 20
    first = await create(company, company.project)
    await until(company, [first], Phase.TRAINING)
    lone = await create(company, company.project, options={"trainer": "trl"})
    await company.turn()
    early = await create(company, company.project)
    await until(company, [early], Phase.TRAINING)  # not long after: it may overtake
    for _ in range(10):
        await company.turn()
    late = [await create(company, company.project) for _ in range(2)]
    await until(company, [first, early], turns=120)
    assert [(await job_of(company, job)).fence for job in late] == [0, 0]
    done = await until(company, [lone, *late], turns=200)
    assert [job.phase for job in done] == [Phase.DONE] * 3
    finished = [job.finished_at or 0.0 for job in done]
    assert finished[0] < min(finished[1:])


async def test_a_job_that_no_machine_fits_holds_nobody_up(company: House):
    company.script.steps = 4
    big = await create(company, company.project)
    await walk_to(company, big.id, Phase.QUEUED)
    async with company.store.begin() as tx:
        [claim] = await tx.jobs.claim("test", 1, 30)
        plan: dict[str, Any] = {**(claim.item.plan or {}), "memory": 1 << 60}
        plan["estimate"]["memory"]["weights"] = 1 << 60
        assert await tx.jobs.apply(claim, plan=plan)
        await tx.jobs.release(claim, 0.0)
    small = await create(company, company.project)
    [small] = await until(company, [small])
    assert small.phase is Phase.DONE
    assert (await job_of(company, big)).phase is Phase.QUEUED


@pytest.mark.parametrize("every", [3, 7])
async def test_killed_again_and_again_a_company_ends_the_same(both: House, every: int):
    both.limits = Limits()
    both.fuse = Fuse(every)
    both.boot()
    jobs = [await create(both, both.project) for _ in range(2)]
    for life in range(400):
        try:
            done = await until(both, jobs)
            break
        except Crash:
            # lives of one length could for ever end before the same job has acted
            both.fuse = Fuse(every + life % 4)
            both.boot()
            await both.clock.advance(both.pace.lease)
    assert [job.phase for job in done] == [Phase.DONE] * 2, await log(both, jobs[1])
    assert [job.trained_tokens for job in done] == [STEPS * TOKENS] * 2
    assert not both.living()
    await settled_exactly(both, done)
