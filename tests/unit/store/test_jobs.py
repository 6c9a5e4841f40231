"""Jobs: created once, moved along the table, claimed by one; their logs, runs, machines and checkpoints."""

from dataclasses import replace

import pytest

from graftwork.core.errors import Conflict, InvalidRequest
from graftwork.core.nouns import Checkpoint, Machine, Run
from graftwork.core.states import MachineState, Outcome, Phase, Want
from graftwork.store import Store


async def test_a_job_comes_back_as_it_was_stored(store: Store, world):
    project = await world.project()
    job = world.new_job(
        project.id, metadata={"a": "1"}, integrations=[{"type": "wandb"}], result_files=("file-1", "file-2")
    )
    async with store.begin() as tx:
        assert await tx.jobs.create(job) == (job, True)
    async with store.read() as tx:
        assert await tx.jobs.get(project.id, job.id) == job
        assert await tx.jobs.any_get(job.id) == job
        assert await tx.jobs.get("proj_other", job.id) is None


async def test_the_same_idempotency_key_makes_one_job(store: Store, world):
    one, two = await world.project(), await world.project()
    first, again = world.new_job(one.id), world.new_job(one.id)
    async with store.begin() as tx:
        assert await tx.jobs.create(first, "k", "hash") == (first, True)
        assert await tx.jobs.create(again, "k", "hash") == (first, False)
        _, created = await tx.jobs.create(world.new_job(two.id), "k", "other")
        assert created  # another project's keys are its own
        with pytest.raises(Conflict) as caught:
            await tx.jobs.create(again, "k", "other")
        assert caught.value.code == "idempotency_conflict"
        assert len((await tx.jobs.list(one.id, limit=10)).items) == 1


async def test_jobs_without_a_key_are_separate(store: Store, world):
    project = await world.project()
    async with store.begin() as tx:
        await tx.jobs.create(world.new_job(project.id))
        await tx.jobs.create(world.new_job(project.id))
        assert len((await tx.jobs.list(project.id, limit=10)).items) == 2


async def test_jobs_are_listed_newest_first_and_by_metadata(store: Store, world):
    project, other = await world.project(), await world.project()
    pairs = [
        None,
        {"team": "a"},
        {"team": "a", "x": 'q"uo, te'},
        {"team": "A"},
        {'x": "y", "team': "a"},
        {"z": '"team": "a"'},
    ]
    jobs = [await world.job(project.id, metadata=metadata) for metadata in pairs]
    await world.job(other.id, metadata={"team": "a"})
    async with store.read() as tx:
        page = await tx.jobs.list(project.id, limit=2)
        assert ([j.id for j in page.items], page.has_more) == ([jobs[5].id, jobs[4].id], True)
        page = await tx.jobs.list(project.id, limit=9, after=jobs[4].id)
        assert ([j.id for j in page.items], page.has_more) == ([j.id for j in reversed(jobs[:4])], False)
        for wanted, expected in (
            ({"team": "a"}, [2, 1]),
            ({"team": "a", "x": 'q"uo, te'}, [2]),
            ({"team": "b"}, []),
        ):
            found = await tx.jobs.list(project.id, limit=9, metadata=wanted)
            assert [j.id for j in found.items] == [jobs[i].id for i in expected]
        with pytest.raises(InvalidRequest):
            await tx.jobs.list(other.id, limit=1, after=jobs[0].id)


async def test_a_claim_gives_a_job_to_one_owner_until_its_lease_ends(store: Store, world):
    project = await world.project()
    job = await world.job(project.id)
    async with store.begin() as tx:
        [claim] = await tx.jobs.claim("one", 5, lease_seconds=60)
        assert claim.item == job
        assert claim.until > await tx.now() + 50
        assert await tx.jobs.claim("two", 5) == []
        assert await tx.jobs.renew(claim, 0)  # ends now
        [taken] = await tx.jobs.claim("two", 5)
        assert not await tx.jobs.renew(claim, 60)
        assert not await tx.jobs.apply(claim, progress=1)
        assert not await tx.jobs.release(claim, 0)
        assert await tx.jobs.apply(taken, progress=2)
        assert (await tx.jobs.any_get(job.id)).progress == 2


async def test_an_expired_lease_is_lost_even_if_nobody_took_it(store: Store, world):
    project = await world.project()
    await world.job(project.id)
    async with store.begin() as tx:
        [claim] = await tx.jobs.claim("one", lease_seconds=-1)
        assert not await tx.jobs.apply(claim, progress=1)
        assert not await tx.jobs.renew(claim, 60)


async def test_claims_take_what_is_due_longest_waiting_first(store: Store, world):
    project = await world.project()
    jobs = [await world.job(project.id, next_at=float(9 - i)) for i in range(3)]
    await world.job(project.id, phase=Phase.DONE)
    async with store.begin() as tx:
        later = await tx.now() + 1000
        await tx.jobs.create(world.new_job(project.id, next_at=later))
        claims = await tx.jobs.claim("one", 2)
        assert [c.item.id for c in claims] == [jobs[2].id, jobs[1].id]
        assert [c.item.id for c in await tx.jobs.claim("two", 9)] == [jobs[0].id]


async def test_released_work_waits_unless_somebody_asked_for_it_meanwhile(store: Store, world):
    project = await world.project()
    job = await world.job(project.id)
    async with store.begin() as tx:
        later = await tx.now() + 1000
        [claim] = await tx.jobs.claim("one")
        assert await tx.jobs.release(claim, later)
        assert await tx.jobs.claim("one") == []
        assert await tx.jobs.set_want(project.id, job.id, Want.CANCEL)
        [claim] = await tx.jobs.claim("one")
        assert claim.item.want is Want.CANCEL
        # While it is being worked on somebody changes their mind: it is due again as soon as it is released,
        # whether the work was put off by the apply or by the release.
        assert await tx.jobs.set_want(project.id, job.id, Want.RUN)
        assert await tx.jobs.apply(claim, next_at=later)
        assert await tx.jobs.release(claim, later)
        [claim] = await tx.jobs.claim("one")
        assert claim.item.want is Want.RUN
        assert await tx.jobs.release(claim, later)
        assert await tx.jobs.claim("one") == []
        assert await tx.jobs.poke(job.id)
        assert len(await tx.jobs.claim("one")) == 1


async def test_only_the_owner_says_what_they_want_and_only_of_unfinished_jobs(store: Store, world):
    project = await world.project()
    job, done = await world.job(project.id), await world.job(project.id, phase=Phase.FAILED)
    async with store.begin() as tx:
        assert not await tx.jobs.set_want("proj_other", job.id, Want.CANCEL)
        assert not await tx.jobs.set_want(project.id, done.id, Want.CANCEL)
        assert not await tx.jobs.poke(done.id)
        assert (await tx.jobs.any_get(job.id)).want is Want.RUN


async def test_a_move_is_checked_and_logged_in_the_same_transaction(store: Store, world):
    project = await world.project()
    job = await world.job(project.id)
    async with store.begin() as tx:
        [claim] = await tx.jobs.claim("one")
        with pytest.raises(Conflict) as caught:
            await tx.jobs.apply(claim, move=Phase.DONE)
        assert caught.value.code == "illegal_move"
        assert await tx.jobs.apply(claim, move=Phase.PROVISIONING, fence=1, plan={"gpu": None})
        # The claim is of the job as it was: what it did is done, and doing it again is refused.
        assert not await tx.jobs.apply(claim, move=Phase.PROVISIONING)
        assert not await tx.jobs.apply(claim, progress=5)
        claim = claim.updated(phase=Phase.PROVISIONING, fence=1)
        assert await tx.jobs.apply(
            claim, move=Phase.FAILED, message="The machine is on fire.", data={"code": "fire"}
        )
        stored = await tx.jobs.any_get(job.id)
        assert (stored.phase, stored.fence, stored.plan) == (Phase.FAILED, 1, {"gpu": None})
        events = await tx.job_events.since(job.id, 0, 10)
    assert [(e.seq, e.level, e.message) for e in events] == [
        (1, "info", "Moved from queued to provisioning."),
        (2, "error", "The machine is on fire."),
    ]
    assert events[1].data == {"from": "provisioning", "to": "failed", "code": "fire"}


async def test_the_same_move_is_not_made_twice(store: Store, world):
    job = await world.job((await world.project()).id)
    async with store.begin() as tx:
        [claim] = await tx.jobs.claim("one")
        assert await tx.jobs.apply(claim, move=Phase.PAUSED)
        assert not await tx.jobs.apply(claim, move=Phase.PAUSED)
        assert len(await tx.job_events.since(job.id, 0, 9)) == 1


async def test_an_apply_of_an_older_fence_is_thrown_away(store: Store, world):
    project = await world.project()
    await world.job(project.id)
    async with store.begin() as tx:
        [claim] = await tx.jobs.claim("one")
        assert await tx.jobs.apply(claim, fence=1)
        assert not await tx.jobs.apply(claim, move=Phase.PAUSED)
        assert await tx.jobs.apply(claim.updated(fence=1), move=Phase.PAUSED)


async def test_events_are_numbered_paged_and_told_once(store: Store, world):
    project = await world.project()
    job, other = await world.job(project.id), await world.job(project.id)
    async with store.begin() as tx:
        events = [
            await tx.job_events.add(
                job.id, level="info", message=f"step {i}", type="metrics", data={"step": i}, at=float(i)
            )
            for i in range(5)
        ]
        stranger = await tx.job_events.add(other.id, level="warn", message="x")
        assert [e.seq for e in events] == [1, 2, 3, 4, 5]
        assert (stranger.seq, stranger.type, stranger.data) == (1, "message", None)
        page = await tx.job_events.list(job.id, limit=2)
        assert (page.items, page.has_more) == ([events[4], events[3]], True)
        page = await tx.job_events.list(job.id, after=events[3].id, limit=3)
        assert (page.items, page.has_more) == ([events[2], events[1], events[0]], False)
        assert await tx.job_events.since(job.id, 3, 9) == events[3:]
        with pytest.raises(InvalidRequest):
            await tx.job_events.list(job.id, after=stranger.id, limit=1)
        once = await tx.job_events.add(job.id, level="info", message="m", dedupe="1/3")
        assert await tx.job_events.add(job.id, level="info", message="m", dedupe="1/3") == once
        assert await tx.job_events.latest(job.id, "metrics") == events[4]
        assert len((await tx.job_events.list(job.id, limit=99)).items) == 6


async def test_a_log_never_goes_back_in_time(store: Store, world):
    """What a trainer said before the control plane spoke may arrive after it."""
    job = await world.job((await world.project()).id)
    async with store.begin() as tx:
        said = [await tx.job_events.add(job.id, level="info", message="m", at=at) for at in (5.0, 4.2, 7.0)]
        now = await tx.job_events.add(job.id, level="info", message="m")
        late = await tx.job_events.add(job.id, level="info", message="m", at=6.0)
        ahead = await tx.job_events.add(job.id, level="info", message="m", at=now.created_at + 3600)
    assert [event.created_at for event in said] == [5.0, 5.0, 7.0]
    assert late.created_at == now.created_at > 7.0
    assert now.created_at <= ahead.created_at < now.created_at + 60


async def test_numbers_that_are_none_become_null(store: Store, world):
    job = await world.job((await world.project()).id)
    async with store.begin() as tx:
        data = {"loss": float("nan"), "deep": [{"x": float("inf")}], "fine": 1.5}
        event = await tx.job_events.add(job.id, level="info", message="m", data=data)
        [stored] = await tx.job_events.since(job.id, 0, 1)
    assert stored == replace(event, data={"loss": None, "deep": [{"x": None}], "fine": 1.5})


async def test_runs_advance_and_end_once(store: Store, world):
    job = await world.job((await world.project()).id)
    runs = [
        Run(job_id=job.id, fence=n, uri=f"file:///runs/{n}", machine=f"gw-{n}", created_at=1.0)
        for n in (1, 2)
    ]
    async with store.begin() as tx:
        assert await tx.runs.create(runs[0])
        assert not await tx.runs.create(runs[0])
        await tx.runs.create(runs[1])
        assert await tx.runs.get(job.id, 1) == runs[0]
        assert await tx.runs.latest(job.id) == runs[1]
        assert await tx.runs.latest("ftjob-none") is None
        assert await tx.runs.advance(job.id, 1, 5)
        assert not await tx.runs.advance(job.id, 1, 5)
        assert await tx.runs.finish(job.id, 1, Outcome.PAUSED, 9.0)
        assert not await tx.runs.finish(job.id, 1, Outcome.FAILED, 10.0)
        assert await tx.runs.list(job.id) == [
            replace(runs[0], cursor=5, outcome=Outcome.PAUSED, ended_at=9.0),
            runs[1],
        ]


async def test_a_gone_machine_never_comes_back(store: Store, world):
    job = await world.job((await world.project()).id)
    machine = Machine(
        name="gw-i-j-1", job_id=job.id, fence=1, provider="local", state=MachineState.INTENDED,
        price_per_hour=10, deadline=100.0, created_at=1.0,
    )  # fmt: skip
    async with store.begin() as tx:
        assert await tx.machines.create(machine)
        assert not await tx.machines.create(replace(machine, price_per_hour=99))
        assert await tx.machines.live() == [machine]
        assert await tx.machines.set_state(machine.name, MachineState.LAUNCHED, at=2.0)
        assert await tx.machines.set_deadline(machine.name, 200.0)
        assert await tx.machines.set_state(machine.name, MachineState.GONE, at=3.0)
        assert not await tx.machines.set_state(machine.name, MachineState.LAUNCHED, at=4.0)
        assert not await tx.machines.set_deadline(machine.name, 300.0)
        assert await tx.machines.live() == []
        gone = replace(machine, state=MachineState.GONE, launched_at=2.0, gone_at=3.0, deadline=200.0)
        assert await tx.machines.get(machine.name) == gone
        assert await tx.machines.for_job(job.id) == [gone]


async def test_checkpoints_are_one_per_step(store: Store, world):
    project = await world.project()
    job = await world.job(project.id)
    points = [
        Checkpoint(
            id=f"ftckpt_{n}",
            job_id=job.id,
            fence=1,
            step=n * 100,
            created_at=float(n),
            metrics={"train_loss": 0.1},
        )
        for n in (1, 2, 3)
    ]
    async with store.begin() as tx:
        assert [await tx.checkpoints.add(point) for point in points] == [True] * 3
        assert not await tx.checkpoints.add(replace(points[0], id="ftckpt_x"))
        page = await tx.checkpoints.list(job.id, limit=2)
        assert (page.items, page.has_more) == ([points[2], points[1]], True)
        page = await tx.checkpoints.list(job.id, after="ftckpt_2", limit=2)
        assert (page.items, page.has_more) == ([points[0]], False)
        assert (await tx.checkpoints.at_step(job.id, 300)) == points[2]
