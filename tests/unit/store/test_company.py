"""Who is aboard a machine, and whose turn it is."""

from __future__ import annotations

from typing import Any

from graftwork.core.nouns import LedgerEntry, Machine, Run
from graftwork.core.states import EntryState, MachineState, Phase, Want


def machine(job: str, **fields: Any) -> Machine:
    given: dict[str, Any] = {
        "name": "gw-x-1",
        "job_id": job,
        "fence": 1,
        "provider": "local",
        "state": MachineState.INTENDED,
        "price_per_hour": 1,
        "deadline": 9.0,
        "created_at": 1.0,
        "shared": True,
        "memory": 5,
        "gpus": 1,
    }
    return Machine(**{**given, **fields})


async def test_runs_come_aboard_and_leave_once(store, world):
    project = await world.project()
    jobs = [await world.job(project.id) for _ in range(2)]
    async with store.begin() as tx:
        await tx.machines.create(machine(jobs[0].id))
        for at, job in enumerate(jobs):
            await tx.runs.create(Run(job_id=job.id, fence=1, uri="u", machine="gw-x-1", created_at=float(at)))
        assert [run.job_id for run in await tx.runs.aboard("gw-x-1")] == [job.id for job in jobs]
        assert await tx.runs.bump(jobs[1].id, 1, "because")
        assert not await tx.runs.bump(jobs[1].id, 1, "another reason")
        assert await tx.runs.leave(jobs[0].id, 1, 5.0)
        assert not await tx.runs.leave(jobs[0].id, 1, 6.0)
        assert not await tx.runs.bump(jobs[0].id, 1, "too late")
    async with store.read() as tx:
        [left] = await tx.runs.aboard("gw-x-1")
        assert (left.job_id, left.bumped) == (jobs[1].id, "because")
        assert [run.off_at for run in await tx.runs.on("gw-x-1")] == [5.0, None]


async def test_a_shut_machine_is_open_to_nobody(store, world):
    project = await world.project()
    job = await world.job(project.id)
    async with store.begin() as tx:
        await tx.machines.create(made := machine(job.id))
        await tx.machines.create(machine(job.id, name="alone", fence=2, shared=False))
        assert await tx.machines.open() == [made]
        assert await tx.machines.lock(made.name) == made
        assert await tx.machines.shut(made.name, 3.0)
        assert not await tx.machines.shut(made.name, 4.0)
        assert await tx.machines.open() == []
        held = await tx.machines.get(made.name)
        assert held is not None and held.closed_at == 3.0


async def test_the_queue_is_of_all_projects_and_counts_what_each_was_given(store, world):
    first, second = await world.project(), await world.project()
    waits = [await world.job(first.id), await world.job(second.id)]
    await world.job(first.id, want=Want.PAUSE)
    await world.job(first.id, phase=Phase.TRAINING)

    def entry(key: str, project: str, tokens: int, **fields: Any) -> LedgerEntry:
        given: dict[str, Any] = {
            "key": key,
            "project_id": project,
            "kind": "training_tokens",
            "state": EntryState.OPEN,
            "amount": 1,
            "quantity": {"trained_tokens": tokens},
            "price_version": "1",
            "refs": {},
            "created_at": 1.0,
        }
        return LedgerEntry(**{**given, **fields})

    async with store.begin() as tx:
        await tx.ledger.reserve(entry("open", first.id, 100))
        await tx.ledger.reserve(entry("gone", first.id, 7))
        await tx.ledger.void("gone", 50.0)
        await tx.ledger.record(entry("old", second.id, 30, settled_at=10.0))
        await tx.ledger.record(entry("new", second.id, 40, settled_at=60.0))
        await tx.ledger.record(entry("other", second.id, 99, kind="machine_seconds", settled_at=60.0))
    async with store.read() as tx:
        assert [job.id for job in await tx.queue.waiting()] == [job.id for job in waits]
        assert await tx.queue.given("training_tokens", 50.0) == {first.id: 100, second.id: 40}
