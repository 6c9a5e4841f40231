"""Sweeps: trials begin together, the worse are stopped, the best is registered, and all pay."""

from __future__ import annotations

import pytest
from controlhouse import TOKENS, Crash, Fuse, House, Script, rows

from graftwork.control.reconcilers.jobs.context import Limits
from graftwork.control.services.requests import JobRequest
from graftwork.control.services.sweeps import SweepRequest, SweepView
from graftwork.core.errors import Conflict, InvalidRequest, NotFound
from graftwork.core.states import EntryState, Phase
from graftwork.runs.documents import RunError

STEPS = 12
RATES = (0.5, 1.0, 2.0)


@pytest.fixture
async def shared(house: House) -> House:
    """A control plane with one slot whose machines may be shared."""
    house.limits = Limits()
    house.boot()
    return house


async def begin(house: House, **search: object) -> SweepView:
    """A sweep of three rates (or what ``search`` says), each of 12 steps."""
    files = [
        (await house.services.files.create(house.project.id, filename=n, purpose="fine-tune", content=c)).id
        for n, c in (("t.jsonl", rows(30)), ("v.jsonl", rows(12, 500)))
    ]
    job = JobRequest(
        model="seedling",
        training_file=files[0],
        validation_file=files[1],
        suffix="codes",
        seed=1,
        hyperparameters={"n_epochs": 3, "batch_size": 8},
    )
    given: dict = {"ranks": (8,), "rates": RATES, **search}
    return await house.services.sweeps.create(house.project.id, SweepRequest(job=job, **given))


async def turn_until(
    house: House, view: SweepView, scripts: dict[float, Script], turns: int = 150
) -> SweepView:
    """Turn until the sweep has ended; ``scripts`` by the trials' rates."""
    house.by_rate = scripts
    for _ in range(turns):
        await house.turn()
        view = await house.services.sweeps.get(house.project.id, view.sweep.id)
        if view.sweep.state != "running":
            return view
    raise AssertionError([(one.trial, one.job and one.job.phase) for one in view.trials])


def worse(*factors: float) -> dict[float, Script]:
    """Trials whose held-out losses are so many times as high as usual."""
    pairs = zip(RATES, factors, strict=True)
    return {rate: Script(steps=STEPS, worse=factor, seed=round(10 * rate)) for rate, factor in pairs}


async def test_the_best_goes_to_the_end_and_the_others_stop_early(shared: House):
    view = await turn_until(shared, await begin(shared), worse(1.2, 1.0, 1.5))
    assert view.sweep.state == "succeeded"
    assert [one.trial["state"] for one in view.trials] == ["stopped", "best", "stopped"]
    best = view.trials[1].job
    assert best is not None and best.phase is Phase.DONE and view.sweep.best == best.id
    for _ in range(6):
        await shared.turn()
    view = await shared.services.sweeps.get(shared.project.id, view.sweep.id)
    tokens = [one.job.trained_tokens if one.job else None for one in view.trials]
    assert tokens[1] == STEPS * TOKENS
    assert all(0 < (n or 0) < STEPS * TOKENS for n in (tokens[0], tokens[2]))
    assert [one.job and one.job.phase for one in view.trials] == [
        Phase.CANCELLED,
        Phase.DONE,
        Phase.CANCELLED,
    ]
    assert all(one.cost > 0 and one.reserved == 0 for one in view.trials)
    assert view.cost == sum(one.cost for one in view.trials)
    [adapter] = await shared.services.adapters.list(shared.project.id)
    assert len(adapter.versions) == 1
    assert max(company.most for company in shared.trainers.values()) == 3
    assert not shared.living()
    rates = [
        job.asked["hyperparameters"]["learning_rate_multiplier"] for one in view.trials if (job := one.job)
    ]
    assert tuple(rates) == RATES


async def test_a_failed_trial_loses_and_the_next_best_takes_over(shared: House):
    scripts = worse(1.2, 1.0, 1.5)
    view = await begin(shared)
    diverged = RunError(code="loss_not_finite", message="NaN", kind="user")
    shared.by_rate = scripts
    for _ in range(150):
        await shared.turn()
        view = await shared.services.sweeps.get(shared.project.id, view.sweep.id)
        if view.sweep.rung == 1:
            scripts[1.0].error = diverged
        if view.sweep.state != "running":
            break
    assert view.sweep.state == "succeeded"
    assert [one.trial["state"] for one in view.trials] == ["best", "failed", "stopped"]


async def test_when_all_fail_the_sweep_says_so(shared: House):
    bad = RunError(code="loss_not_finite", message="NaN", kind="user")
    scripts = {rate: Script(steps=STEPS, error=bad) for rate in RATES}
    view = await turn_until(shared, await begin(shared), scripts)
    assert (view.sweep.state, view.sweep.best) == ("failed", None)
    assert view.sweep.message == "Every trial failed: look at the jobs' errors."


async def test_a_cancel_ends_all_trials(shared: House):
    shared.by_rate = worse(1.0, 1.0, 1.0)
    view = await begin(shared)
    for _ in range(8):
        await shared.turn()
    await shared.services.sweeps.cancel(shared.project.id, view.sweep.id)
    for _ in range(12):
        await shared.turn()
    view = await shared.services.sweeps.get(shared.project.id, view.sweep.id)
    assert view.sweep.state == "cancelled"
    assert all(one.job is not None and one.job.phase is Phase.CANCELLED for one in view.trials)
    assert not shared.living()
    with pytest.raises(Conflict):
        await shared.services.sweeps.cancel(shared.project.id, view.sweep.id)


async def test_a_sweep_needs_held_out_rows_and_a_size(shared: House):
    with pytest.raises(InvalidRequest, match="1 to 32"):
        await begin(shared, rates=tuple(range(1, 40)))
    job = JobRequest(model="seedling", training_file="file-1", options={"holdout": 0})
    with pytest.raises(InvalidRequest, match="held-out"):
        await shared.services.sweeps.create(shared.project.id, SweepRequest(job=job))
    with pytest.raises(InvalidRequest):
        await begin(shared, ranks=(0,))


async def test_files_must_be_the_projects_own(shared: House):
    job = JobRequest(model="seedling", training_file="file-nothing", seed=1)
    with pytest.raises(NotFound, match="file-nothing"):
        await shared.services.sweeps.create(shared.project.id, SweepRequest(job=job))


async def test_a_file_that_goes_missing_fails_the_sweep_readably(shared: House):
    view = await begin(shared)
    await shared.services.files.delete(shared.project.id, view.sweep.request["training_file"])
    view = await turn_until(shared, view, {})
    assert view.sweep.state == "failed"
    assert "file" in (view.sweep.message or "")


@pytest.mark.parametrize("every", [5])
async def test_killed_again_and_again_a_sweep_ends_the_same(both: House, every: int):
    house = both
    house.limits = Limits()
    house.fuse = Fuse(every)
    house.boot()
    view = await begin(house)
    for life in range(200):
        try:
            view = await turn_until(house, view, worse(1.2, 1.0, 1.5), turns=400)
            break
        except Crash:
            # lives of one length could for ever end before the same job has acted
            house.fuse = Fuse(every + life % 4)
            house.boot()
            await house.clock.advance(house.pace.lease)
    assert [one.trial["state"] for one in view.trials] == ["stopped", "best", "stopped"]
    async with house.store.read() as tx:
        jobs = (await tx.jobs.list(house.project.id, limit=50)).items
        best = await tx.ledger.for_job(house.project.id, view.sweep.best or "")
    assert len(jobs) == 3
    assert all(entry.state is EntryState.SETTLED for entry in best if entry.kind == "training_tokens")
