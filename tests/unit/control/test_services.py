"""Services: what a customer may ask for, and what is refused, with words that help."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from typing import Any

import pytest
from controlhouse import House, answer, rows

from graftwork.control.services.datasets import Upload
from graftwork.control.services.requests import JobRequest, check_request
from graftwork.core.errors import Conflict, Forbidden, GraftworkError, InvalidRequest, NotFound
from graftwork.core.keys import key_matches, parse_key
from graftwork.core.states import Phase, Want
from graftwork.serving.port import BASE


def request(**fields: Any) -> JobRequest:
    return JobRequest(**{"model": "seedling", "training_file": "file-1", **fields})


@pytest.mark.parametrize(
    ("fields", "code", "param"),
    [
        ({"method": "sorcery"}, "method_unsupported", "method.type"),
        ({"method": "dpo", "options": {"method": "kto"}}, "method_conflict", "graftwork.method"),
        ({"method": "dpo", "hyperparameters": {"beta": 3}}, "invalid_request", "hyperparameters.beta"),
        ({"options": {"method": "ppo"}}, "invalid_request", "graftwork.method"),
        (
            {"options": {"method": "orpo", "trainer": "native"}},
            "method_needs_trainer",
            "graftwork.trainer",
        ),
        (
            {"method": "dpo", "options": {"trainer": "trl", "preference": {"label_smoothing": 0.1}}},
            "option_unsupported",
            "graftwork.preference.label_smoothing",
        ),
        (
            {"options": {"method": "kto", "quantization": "nf4"}},
            "option_unsupported",
            "graftwork.quantization",
        ),
        ({"options": {"lora": {"dora": True}}}, "dora_not_served", "graftwork.lora.dora"),
        ({"method": "reinforcement"}, "method_unsupported", "method.type"),
        ({"suffix": ""}, "invalid_request", "suffix"),
        ({"suffix": "x" * 65}, "invalid_request", "suffix"),
        ({"suffix": "…"}, "invalid_request", "suffix"),
        ({"seed": -1}, "invalid_request", "seed"),
        ({"seed": 2**31}, "invalid_request", "seed"),
        ({"seed": True}, "invalid_request", "seed"),
        ({"hyperparameters": {"n_epochs": 51}}, "invalid_request", "hyperparameters.n_epochs"),
        ({"hyperparameters": {"n_epochs": "many"}}, "invalid_request", "hyperparameters.n_epochs"),
        ({"hyperparameters": {"batch_size": 0}}, "invalid_request", "hyperparameters.batch_size"),
        (
            {"hyperparameters": {"learning_rate_multiplier": 0}},
            "invalid_request",
            "hyperparameters.learning_rate_multiplier",
        ),
        ({"hyperparameters": {"beta": 0.1}}, "invalid_request", "hyperparameters"),
        ({"options": {"lora": {"rank": 0}}}, "invalid_request", "graftwork.lora.rank"),
        ({"options": {"holdout": 0.9}}, "invalid_request", "graftwork.holdout"),
        ({"options": {"max_cost": "cheap"}}, "invalid_request", "graftwork.max_cost"),
        ({"metadata": {str(n): "" for n in range(17)}}, "invalid_request", "metadata"),
        ({"metadata": {"k": "v" * 513}}, "invalid_request", "metadata"),
        ({"metadata": {"k\x00": "v"}}, "invalid_request", "metadata"),
        ({"integrations": [{"type": "wandb"}]}, "integrations_unsupported", "integrations"),
    ],
)
def test_a_request_out_of_range_is_refused(fields: dict[str, Any], code: str, param: str):
    with pytest.raises(InvalidRequest) as refused:
        check_request(request(**fields))
    assert (refused.value.code, refused.value.param) == (code, param)
    assert refused.value.fix


def test_what_is_not_asked_is_chosen():
    checked = check_request(request(suffix="My Bot v2"))
    assert checked.adapter == "my-bot-v2"
    assert 0 <= checked.seed < 2**31
    assert checked.hyperparameters.n_epochs == "auto"


async def test_a_job_needs_a_known_model_and_its_own_files(house: House):
    with pytest.raises(NotFound, match="nonesuch"):
        await house.create(model="nonesuch")
    with pytest.raises(NotFound) as missing:
        await house.create(training_file="file-nope")
    assert missing.value.param == "training_file"
    other = await house.services.files.create(
        house.project.id, filename="a.jsonl", purpose="batch", content=rows()
    )
    with pytest.raises(InvalidRequest) as wrong:
        await house.create(validation_file=other.id)
    assert (wrong.value.code, wrong.value.param) == ("wrong_file_purpose", "validation_file")


async def test_an_idempotency_key_gives_the_first_job_again(both: House):
    file, valid = await both.upload(), await both.upload(rows(12, start=500))
    fields = {"training_file": file.id, "validation_file": valid.id, "idempotency_key": "k"}
    first = await both.create(**fields)
    again = await both.create(**fields)
    assert again.job.id == first.job.id
    assert (await both.log(first.job.id)).count("Created fine-tuning job") == 1
    with pytest.raises(Conflict) as conflict:
        await both.create(**fields, metadata={"other": "body"})
    assert conflict.value.code == "idempotency_conflict"


async def test_jobs_are_listed_newest_first_and_by_metadata(both: House):
    for team in ("a", "b", "a"):
        await both.clock.advance(1)
        await both.create(metadata={"team": team})
    jobs = both.services.jobs
    page = await jobs.list(both.project.id, limit=2)
    assert page.has_more
    rest = await jobs.list(both.project.id, limit=2, after=page.items[-1].job.id)
    assert not rest.has_more
    created = [view.job.created_at for view in [*page.items, *rest.items]]
    assert created == sorted(created, reverse=True)
    mine = await jobs.list(both.project.id, metadata={"team": "a"})
    assert len(mine.items) == 2


async def test_nothing_of_another_project_is_seen(house: House):
    job = await house.create()
    services, other = house.services, "proj_other"
    for ask in (
        services.jobs.get(other, job.job.id),
        services.jobs.events(other, job.job.id),
        services.jobs.checkpoints(other, job.job.id),
        services.jobs.cancel(other, job.job.id),
        services.files.get(other, job.job.training_file),
        services.files.delete(other, job.job.training_file),
        services.adapters.show(other, "codes"),
    ):
        with pytest.raises(NotFound):
            await ask


async def test_a_job_that_has_ended_cannot_be_cancelled_paused_or_resumed(house: House):
    job = await house.until((await house.create()).job.id)
    jobs = house.services.jobs
    for change in (jobs.cancel, jobs.pause, jobs.resume):
        with pytest.raises(Conflict):
            await change(house.project.id, job.id)


async def test_a_cancel_is_never_taken_back(house: House):
    job = (await house.create()).job
    jobs = house.services.jobs
    assert (await jobs.pause(house.project.id, job.id)).job.want is Want.PAUSE
    assert (await jobs.cancel(house.project.id, job.id)).status == "cancelled"
    for change in (jobs.pause, jobs.resume):
        with pytest.raises(Conflict):
            await change(house.project.id, job.id)


async def test_a_file_in_use_is_not_deleted(house: House):
    view = await house.create()
    with pytest.raises(Conflict) as used:
        await house.services.files.delete(house.project.id, view.job.training_file)
    assert view.job.id in used.value.message
    await house.services.jobs.cancel(house.project.id, view.job.id)
    await house.until(view.job.id)
    await house.services.files.delete(house.project.id, view.job.training_file)
    with pytest.raises(NotFound):
        await house.services.files.get(house.project.id, view.job.training_file)


async def test_uploads_are_streamed_and_checked(house: House):
    async def pieces() -> AsyncIterator[bytes]:
        yield b"one\n"
        yield b"two\n"

    files = house.services.files
    stored = await files.create(
        house.project.id, filename="a.jsonl", purpose="fine-tune", content=pieces(), expires_after=3600
    )
    assert stored.bytes == 8
    _, content = await files.content(house.project.id, stored.id)
    assert b"".join([chunk async for chunk in content]) == b"one\ntwo\n"
    await house.clock.advance(3601)
    with pytest.raises(NotFound):
        await files.get(house.project.id, stored.id)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"purpose": "fine-tune-results"}, "purpose"),
        ({"purpose": "nonsense"}, "purpose"),
        ({"filename": " "}, "file"),
        ({"content": b""}, "file"),
        ({"expires_after": 10}, "expires_after"),
    ],
)
async def test_uploads_out_of_range_are_refused(house: House, fields: dict[str, Any], param: str):
    given = {"filename": "a.jsonl", "purpose": "fine-tune", "content": b"x", **fields}
    with pytest.raises(InvalidRequest) as refused:
        await house.services.files.create(house.project.id, **given)
    assert refused.value.param == param


async def test_keys_are_shown_once_and_revoked_for_good(house: House):
    keys = house.services.keys
    made = await keys.create(house.project.id, name="ci", expires_after=60)
    parts = parse_key(made.text)
    assert parts is not None
    assert key_matches(parts.secret, made.key.digest, b"pepper")
    assert parts.secret not in repr(await keys.list(house.project.id))
    await keys.revoke(house.project.id, made.key.id)
    await keys.revoke(house.project.id, made.key.id)
    [listed] = await keys.list(house.project.id)
    assert listed.revoked_at is not None
    with pytest.raises(NotFound):
        await keys.revoke("proj_other", made.key.id)
    with pytest.raises(InvalidRequest):
        await keys.create(house.project.id, name=" ")


async def test_a_failed_gate_is_promoted_only_by_force_and_with_a_reason(house: House):
    house.engine.backend.say = lambda model, messages: "no" if model != BASE else answer("", messages)
    job = await house.until((await house.create()).job.id)
    assert job.phase is Phase.DONE
    assert job.fine_tuned_model is not None
    assert re.search(r"warn: production was not moved .* the gate's verdict is fail", await house.log(job.id))
    adapters, project = house.services.adapters, house.project.id
    with pytest.raises(Conflict) as refused:
        await adapters.promote(project, "codes", 1, actor="me")
    assert refused.value.code == "gate_refused"
    with pytest.raises(InvalidRequest):
        await adapters.promote(project, "codes", 1, actor="me", force=True)
    alias = await adapters.promote(project, "codes", 1, actor="me", force=True, reason="a demo")
    assert alias.generation == 1
    assert (await adapters.version(project, "codes@production")).version.number == 1


async def test_promotion_rollback_and_deletion(house: House):
    for seed in (0, 1):
        house.script.seed = seed
        await house.until((await house.create()).job.id)
    adapters, project = house.services.adapters, house.project.id
    assert (await adapters.version(project, "codes")).name == "codes@2"
    with pytest.raises(Conflict) as moved:
        await adapters.promote(project, "codes", 1, actor="me", expected_generation=1)
    assert moved.value.code == "alias_moved"
    await adapters.rollback(project, "codes", actor="me", reason="it drifts")
    view = await adapters.show(project, "codes")
    assert (view.moves[0].from_version, view.moves[0].to_version, view.moves[0].reason) == (2, 1, "it drifts")
    with pytest.raises(Conflict):
        await adapters.delete_version(project, "codes@1")
    deleted = await adapters.delete_version(project, "codes@2")
    for _ in range(3):
        await house.turn()
    assert deleted.weights[:32] not in await house.engine.adapters()
    with pytest.raises(NotFound):
        await adapters.version(project, "codes@2")


async def test_models_are_bases_versions_and_checkpoints(house: House):
    models, project = house.services.models, house.project.id
    job = await house.until((await house.create()).job.id)
    name = job.fine_tuned_model or ""
    listed = {view.name: view for view in await models.list(project)}
    assert listed["seedling"].kind == "base"
    assert listed["seedling"].ready
    assert listed[name].version == "codes@1"
    assert listed[name].ready
    checkpoint = await models.get(project, f"{name}:ckpt-step-2")
    assert checkpoint.kind == "checkpoint"
    for nothing in ("ft:seedling:acme:codes:zzzz", f"{name}:ckpt-step-3", "nonesuch"):
        with pytest.raises(NotFound):
            await models.get(project, nothing)
    with pytest.raises(Forbidden):
        await models.delete(project, "seedling")
    with pytest.raises(Conflict):
        await models.delete(project, name)


async def test_an_adapter_stays_on_its_base(house: House):
    async with house.store.begin() as tx:
        await tx.adapters.ensure(house.project.id, "codes", "Qwen/Qwen3-0.6B", 1.0)
    with pytest.raises(Conflict) as refused:
        await house.create()
    assert refused.value.code == "adapter_on_other_base"


async def test_data_is_checked_before_anything_is_paid(house: House):
    datasets, project = house.services.datasets, house.project.id
    report, other = await datasets.validate(
        project, Upload(rows(), "a.jsonl"), base="seedling", validation=Upload(rows(5), "b.jsonl")
    )
    assert report.ok
    assert report.size is not None and report.size.tokens > 0
    assert other is not None and len(other.leaks) == 5
    stored = await house.upload(b"{}\n{]\n")
    bad, _ = await datasets.validate(project, stored.id, base="seedling")
    assert not bad.ok
    with pytest.raises(NotFound):
        await datasets.validate(project, "file-nope", base="seedling")


async def test_budgets_are_kept(house: House):
    billing, project = house.services.billing, house.project.id
    await billing.set_budget(project, 100)
    job = await house.until((await house.create()).job.id)
    assert job.phase is Phase.FAILED
    assert job.error is not None and job.error["code"] == "budget_exceeded"
    assert not house.cloud.machines
    budget = await billing.budget(project)
    assert (budget.cap, budget.spent) == (100, 0)
    await billing.set_budget(project, None)
    assert (await house.until((await house.create()).job.id)).phase is Phase.DONE
    page = await billing.usage(project)
    assert {entry.kind for entry in page.items} == {"training_tokens", "machine_seconds"}
    for bad in (billing.set_budget(project, -1), billing.set_budget("proj_other", 1)):
        with pytest.raises(GraftworkError):
            await bad


async def test_max_cost_refuses_before_spending(house: House):
    job = await house.until((await house.create(options={"max_cost": "0.000001"})).job.id)
    assert job.error is not None
    assert job.error["code"] == "max_cost_exceeded"
    assert not house.cloud.machines
