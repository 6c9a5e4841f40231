"""Single phases: what they refuse, what they make of trouble, and what they say."""

from __future__ import annotations

from typing import Any

from controlhouse import House, probes, rows, score

from graftwork.core.errors import PlatformError, Unavailable
from graftwork.core.nouns import Job
from graftwork.core.states import Phase, PlacementState, Verdict
from graftwork.runs.documents import Probe


async def test_a_broken_file_fails_the_job_with_every_finding(house: House):
    lines = rows(12).splitlines()
    lines[2] = b'{"messages": []}'
    lines[4] = b"not json"
    lines[7] = b'{"messages": [{"role": "user", "content": "no answer"}]}'
    job = await house.until((await house.create(b"\n".join(lines))).job.id)
    assert job.phase is Phase.FAILED
    assert job.error is not None
    assert job.error["code"] == "invalid_training_file"
    assert job.error["param"] == "training_file"
    found = {finding["line"] for finding in job.error["findings"]}
    assert found >= {3, 5, 8}
    message = job.error["message"].splitlines()
    assert all(any(line.startswith(f"line {n}") for line in message) for n in (3, 5, 8))
    assert not house.cloud.machines


async def test_a_broken_validation_file_is_told_apart(house: House):
    bad = await house.upload(b'{"prompt": 1}\n', "valid.jsonl")
    job = await house.until((await house.create(validation_file=bad.id)).job.id)
    assert job.error is not None
    assert (job.error["code"], job.error["param"]) == ("invalid_validation_file", "validation_file")


async def test_a_validation_file_that_is_the_training_file_is_refused(house: House):
    file = await house.upload()
    job = await house.until((await house.create(training_file=file.id, validation_file=file.id)).job.id)
    assert job.error is not None
    assert job.error["code"] == "invalid_validation_file"
    assert "validation_is_training" in {finding["code"] for finding in job.error["findings"]}


async def test_an_adapter_without_effect_is_never_served(house: House):
    house.script.probes = _without_effect
    house.engine.backend.score = lambda model, tokens: score("base", tokens)
    job = await house.until((await house.create()).job.id)
    assert job.phase is Phase.FAILED
    assert job.error is not None
    assert job.error["code"] == "adapter_not_servable"
    assert "the adapter changes a log-probability by 0 nats" in job.error["message"]
    await house.turn()
    assert not await house.engine.adapters()
    assert await house.services.adapters.list(house.project.id) == []


async def test_an_adapter_that_disagrees_with_its_trainer_is_never_served(house: House):
    house.script.probes = _another_trainer
    job = await house.until((await house.create()).job.id)
    assert job.error is not None
    assert "nats off the trainer's" in job.error["message"]


def _without_effect(files: dict[str, bytes]) -> list[Probe]:
    return [p.model_copy(update={"logprobs": p.base_logprobs}) for p in probes(files)]


def _another_trainer(files: dict[str, bytes]) -> list[Probe]:
    return [p.model_copy(update={"logprobs": [v - 0.5 for v in p.logprobs]}) for p in probes(files)]


async def test_an_evaluation_that_fails_is_inconclusive_and_promotes_nothing(house: House):
    async with house.store.begin() as tx:
        await tx.endpoints.ensure("seedling", "embedded", 1.0)
    await house.endpoints.once()
    house.engine.backend.fail = PlatformError("The engine fell over.")
    job = await house.until((await house.create()).job.id)
    assert job.phase is Phase.DONE, await house.log(job.id)
    view = await house.services.jobs.get(house.project.id, job.id)
    assert view.evaluation is not None
    assert view.evaluation.verdict is Verdict.INCONCLUSIVE
    [adapter] = await house.services.adapters.list(house.project.id)
    assert adapter.aliases == ()
    assert "the gate's verdict is inconclusive" in await house.log(job.id)


async def test_an_evaluator_that_crashes_closes_the_gate_after_some_tries(house: House):
    class Broken(type(house.jobs)):
        async def act(self, job: Job) -> Any:
            if job.phase is Phase.EVALUATING and job.plan and job.plan["placed"]:
                raise KeyError("a bug")
            return await super().act(job)

    house.jobs = Broken(house.ctx, house.bell, house.pace, "test")
    job = (await house.create()).job
    for _ in range(200):
        await house.turn(5)
        if (await house.job(job.id)).phase is Phase.DONE:
            break
    view = await house.services.jobs.get(house.project.id, job.id)
    assert view.job.phase is Phase.DONE
    assert view.evaluation is not None
    assert view.evaluation.verdict is Verdict.INCONCLUSIVE
    assert "internal error (KeyError)" in str(view.evaluation.report)


async def test_a_phase_that_always_fails_ends_the_job_with_the_reason(house: House):
    class Broken(type(house.jobs)):
        async def act(self, job: Job) -> Any:
            if job.phase is Phase.TRAINING:
                raise Unavailable("The disk is on fire.", code="disk_fire")
            return await super().act(job)

    house.jobs = Broken(house.ctx, house.bell, house.pace, "test")
    house.script.silent = False
    job = (await house.create()).job
    for _ in range(200):
        await house.turn(5)
        if (await house.job(job.id)).phase is Phase.FAILED:
            break
    job = await house.job(job.id)
    assert job.error is not None
    assert job.error["code"] == "disk_fire"
    assert not house.living()


async def test_without_promotion_the_version_is_callable_and_the_alias_stays(house: House):
    job = await house.until((await house.create(options={"promote": False})).job.id)
    assert job.phase is Phase.DONE
    [adapter] = await house.services.adapters.list(house.project.id)
    assert adapter.aliases == ()
    assert adapter.versions[0].placement is not None
    assert adapter.versions[0].placement.state is PlacementState.READY


async def test_an_alias_that_moved_during_the_evaluation_is_left_alone(house: House):
    await house.until((await house.create()).job.id)
    house.script.seed = 1
    second = await house.until((await house.create()).job.id)
    house.script.seed = 2
    third = (await house.create()).job
    await house.until(third.id, Phase.TRAINING)
    while not (await house.job(third.id)).plan["placed"]:  # pyright: ignore[reportOptionalSubscript]
        await house.jobs.once()
        await house.train()
        await house.clock.advance(1)
    await house.services.adapters.rollback(house.project.id, "codes", actor="me")
    job = await house.until(third.id)
    assert job.phase is Phase.DONE
    adapter = await house.services.adapters.show(house.project.id, "codes")
    assert adapter.aliases[0].version_id not in {second.version_id, job.version_id}
    assert "production was not moved to version 3: it was moved meanwhile" in await house.log(job.id)


async def test_the_machine_is_told_what_it_must_know_and_no_more(house: House):
    await house.until((await house.create()).job.id, Phase.PREPARING)
    [machine] = house.cloud.machines
    assert machine.command[:2] == ["trainer", "--run"]
    assert machine.command[2].endswith("#1")
    assert machine.env == {}
