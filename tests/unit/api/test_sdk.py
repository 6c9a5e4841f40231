"""The stock ``openai`` SDK against the API: files, jobs, events, checkpoints, models, answers."""

import io

import openai
import pytest

from graftwork.core.states import Phase

HELLO = [{"role": "user", "content": "hello"}]


async def test_the_life_of_a_file(world):
    tenant = await world.tenant()
    client = world.sdk(tenant)
    made = await client.files.create(
        file=("rows.jsonl", io.BytesIO(b'{"a": 1}\n')),
        purpose="fine-tune",
        expires_after={"anchor": "created_at", "seconds": 3600},
    )
    assert (made.object, made.bytes, made.filename, made.purpose) == ("file", 9, "rows.jsonl", "fine-tune")
    assert made.expires_at == pytest.approx(made.created_at + 3600, abs=1)
    assert (await client.files.wait_for_processing(made.id)).status == "processed"
    assert (await client.files.retrieve(made.id)).id == made.id
    assert (await client.files.content(made.id)).content == b'{"a": 1}\n'
    assert (await client.files.delete(made.id)).deleted
    with pytest.raises(openai.NotFoundError):
        await client.files.retrieve(made.id)


async def test_files_in_pages(world):
    tenant = await world.tenant()
    client = world.sdk(tenant)
    made = [await world.upload(tenant) for _ in range(5)]
    page = await client.files.list(limit=2, order="asc")
    assert [f.id for f in page.data] == made[:2]
    assert page.has_more
    raw = (await world.call(tenant, "GET", "/v1/files?limit=2&order=asc")).json()
    assert (raw["first_id"], raw["last_id"]) == (made[0], made[1])
    assert [f.id async for f in client.files.list(limit=2)] == made[::-1]
    assert [f.id async for f in client.files.list(purpose="batch")] == []
    empty = (await world.call(tenant, "GET", "/v1/files?purpose=batch")).json()
    assert empty == {"object": "list", "data": [], "first_id": None, "last_id": None, "has_more": False}


async def test_a_job_from_creation_to_an_answer(world):
    tenant = await world.tenant()
    client = world.sdk(tenant)
    file = await world.upload(tenant)
    job = await client.fine_tuning.jobs.create(
        model="seedling",
        training_file=file,
        validation_file=file,
        suffix="support",
        seed=7,
        metadata={"team": "blue"},
        method={"type": "supervised", "supervised": {"hyperparameters": {"n_epochs": 3}}},
        extra_body={"graftwork": {"lora": {"rank": 4}}, "something_new": True},
    )
    assert (job.object, job.status, job.seed, job.model) == (
        "fine_tuning.job",
        "validating_files",
        7,
        "seedling",
    )
    assert job.hyperparameters.n_epochs == job.method.supervised.hyperparameters.n_epochs == 3
    assert job.hyperparameters.batch_size == "auto"
    assert job.error is job.fine_tuned_model is job.finished_at is job.trained_tokens is None
    assert job.result_files == []
    assert job.graftwork["phase"] == "validating"
    assert job.graftwork["adapter"] == "support"
    version = await world.finish(tenant, job.id)
    done = await client.fine_tuning.jobs.retrieve(job.id)
    assert (done.status, done.fine_tuned_model) == ("succeeded", version.model)
    assert done.finished_at >= done.created_at
    assert done.graftwork["version"] == 1
    assert done.graftwork["gate"]["verdict"] == "pass"
    assert done.graftwork["cost"]["settled_micro"] == 12
    answer = await client.chat.completions.create(model=done.fine_tuned_model, messages=HELLO)
    assert answer.choices[0].message.content.endswith("says hello")
    assert answer.model == done.fine_tuned_model
    stream = await client.chat.completions.create(
        model="support", messages=HELLO, stream=True, stream_options={"include_usage": True}
    )
    chunks = [chunk async for chunk in stream]
    text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    assert text == answer.choices[0].message.content
    assert chunks[-1].usage.model_dump() == answer.usage.model_dump()


async def test_a_dpo_job_reads_as_openais(world):
    tenant = await world.tenant()
    client = world.sdk(tenant)
    file = await world.upload(tenant)
    asked = {"beta": 0.2, "n_epochs": 2}
    job = await client.fine_tuning.jobs.create(
        model="seedling", training_file=file, method={"type": "dpo", "dpo": {"hyperparameters": asked}}
    )
    raw = (await world.call(tenant, "GET", f"/v1/fine_tuning/jobs/{job.id}")).json()
    wanted = {"n_epochs": 2, "batch_size": "auto", "learning_rate_multiplier": "auto", "beta": 0.2}
    assert raw["method"] == {"type": "dpo", "dpo": {"hyperparameters": wanted}}
    assert raw["hyperparameters"] is None, "as OpenAI's own example of a DPO job has it"
    assert job.method.dpo.hyperparameters.beta == 0.2
    assert (raw["graftwork"]["method"], raw["graftwork"]["trainer"]) == ("dpo", "native")
    auto = await client.fine_tuning.jobs.create(model="seedling", training_file=file, method={"type": "dpo"})
    assert auto.method.dpo.hyperparameters.beta == "auto"


@pytest.mark.parametrize(("method", "trainer"), [("orpo", "trl"), ("kto", "trl"), ("cpt", "native")])
async def test_methods_that_openai_has_no_word_for(world, method, trainer):
    tenant = await world.tenant()
    file = await world.upload(tenant)
    job = await world.sdk(tenant).fine_tuning.jobs.create(
        model="seedling", training_file=file, extra_body={"graftwork": {"method": method}}
    )
    raw = (await world.call(tenant, "GET", f"/v1/fine_tuning/jobs/{job.id}")).json()
    assert (raw["graftwork"]["method"], raw["graftwork"]["trainer"]) == (method, trainer)
    assert raw["method"]["type"] == "supervised"


async def test_jobs_and_events_in_pages(world):
    tenant = await world.tenant()
    client = world.sdk(tenant)
    jobs = [await world.job(tenant, metadata={"n": str(n)}) for n in range(4)]
    assert [j.id async for j in client.fine_tuning.jobs.list(limit=3)] == jobs[::-1]
    page = await client.fine_tuning.jobs.list(limit=3)
    assert page.has_more
    assert "first_id" not in (await world.call(tenant, "GET", "/v1/fine_tuning/jobs")).json()
    await world.finish(tenant, jobs[0])
    events = [e async for e in client.fine_tuning.jobs.list_events(jobs[0], limit=4)]
    assert len(events) > 8
    assert events[-1].message == f"Created fine-tuning job: {jobs[0]}"
    assert len({e.id for e in events}) == len(events)
    assert {(e.object, e.level, e.type) for e in events} == {("fine_tuning.job.event", "info", "message")}


async def test_jobs_by_metadata(world):
    tenant = await world.tenant()
    client = world.sdk(tenant)
    blue = await world.job(tenant, metadata={"team": "blue", "x": ""})
    await world.job(tenant, metadata={"team": "red"})
    plain = [await world.job(tenant) for _ in range(3)]
    assert [j.id async for j in client.fine_tuning.jobs.list(metadata={"team": "blue"})] == [blue]
    assert [j.id async for j in client.fine_tuning.jobs.list(metadata={"x": ""})] == [blue]
    first = (await world.call(tenant, "GET", "/v1/fine_tuning/jobs?metadata=null&limit=2")).json()
    assert [j["id"] for j in first["data"]] == plain[:0:-1]
    assert first["has_more"]
    rest = await world.call(tenant, "GET", f"/v1/fine_tuning/jobs?metadata=null&after={plain[1]}")
    assert ([j["id"] for j in rest.json()["data"]], rest.json()["has_more"]) == ([plain[0]], False)
    for bad in ("metadata=x", "metadata=null&metadata[a]=b"):
        assert (await world.call(tenant, "GET", f"/v1/fine_tuning/jobs?{bad}")).status_code == 400


async def test_checkpoints(world):
    tenant = await world.tenant()
    client = world.sdk(tenant)
    job = await world.job(tenant)
    version = await world.finish(tenant, job)
    page = await client.fine_tuning.jobs.checkpoints.list(job, limit=2)
    assert [c.step_number for c in page.data] == [30, 20]
    assert page.has_more
    assert [c.step_number async for c in page] == [30, 20, 10]
    first = page.data[0]
    assert first.object == "fine_tuning.job.checkpoint"
    assert first.fine_tuning_job_id == job
    assert first.metrics.step == 30
    assert first.metrics.full_valid_loss == 0.5
    assert first.metrics.valid_loss is None
    assert first.fine_tuned_model_checkpoint.endswith(":ckpt-step-30")
    raw = (await world.call(tenant, "GET", f"/v1/fine_tuning/jobs/{job}/checkpoints")).json()
    assert (raw["first_id"], raw["last_id"]) == (raw["data"][0]["id"], raw["data"][-1]["id"])
    answer = await client.chat.completions.create(model=f"{version.model}:ckpt-step-10", messages=HELLO)
    assert answer.choices[0].message.content.endswith("says hello")


async def test_cancel_pause_resume(world):
    tenant = await world.tenant()
    jobs = world.sdk(tenant).fine_tuning.jobs
    job = await world.job(tenant)
    await jobs.pause(job)
    await jobs.resume(job)
    with pytest.raises(openai.ConflictError):
        await jobs.resume(job)
    assert (await jobs.cancel(job)).status == "cancelled"
    with pytest.raises(openai.ConflictError):
        await jobs.pause(job)


async def test_a_failed_job_carries_every_finding(world):
    tenant = await world.tenant()
    job = await world.job(tenant)
    findings = [{"line": n, "code": "bad_role", "message": "No."} for n in range(30)]
    error = {
        "code": "invalid_training_file",
        "message": "30 problems",
        "param": "training_file",
        "findings": findings,
    }
    await world.change(job, move=Phase.FAILED, error=error)
    failed = await world.sdk(tenant).fine_tuning.jobs.retrieve(job)
    assert (failed.status, failed.error.code, failed.error.param) == (
        "failed",
        "invalid_training_file",
        "training_file",
    )
    assert failed.error.graftwork["findings"] == findings


async def test_models(world):
    tenant = await world.tenant()
    client = world.sdk(tenant)
    version = await world.finish(tenant, await world.job(tenant))
    models = [m async for m in client.models.list()]
    assert [m.id for m in models] == ["seedling", version.model]
    assert models[0].owned_by == "graftwork"
    assert models[1].graftwork["version"] == "support@1"
    assert (await client.models.retrieve(version.model)).object == "model"
    with pytest.raises(openai.ConflictError):
        await client.models.delete(version.model)
    with pytest.raises(openai.PermissionDeniedError):
        await client.models.delete("seedling")
    await world.finish(tenant, await world.job(tenant))
    assert (await client.models.delete(version.model)).deleted
    with pytest.raises(openai.NotFoundError):
        await client.chat.completions.create(model=version.model, messages=HELLO)


async def test_the_sdks_errors(world):
    tenant = await world.tenant()
    client = world.sdk(tenant)
    with pytest.raises(openai.NotFoundError) as missing:
        await client.fine_tuning.jobs.retrieve("ftjob-none")
    assert missing.value.request_id.startswith("req_")
    assert missing.value.code == "job_not_found"
    with pytest.raises(openai.BadRequestError) as bad:
        await client.fine_tuning.jobs.create(model="seedling", training_file="file-none", seed=-1)
    assert bad.value.param == "seed"
    with pytest.raises(openai.BadRequestError) as unknown:
        await client.fine_tuning.jobs.create(
            model="seedling", training_file="f", extra_body={"graftwork": {"lora": {"rnk": 3}}}
        )
    assert "rnk" in unknown.value.message
    client.api_key = "gw_nope_nope"
    with pytest.raises(openai.AuthenticationError):
        await client.models.list()


async def test_a_base_model_without_a_price_gets_one_when_it_is_first_called(world):
    tenant = await world.tenant()
    await world.place(tenant, (await world.finish(tenant, await world.job(tenant))).weights)
    async with world.store.begin() as tx:
        await tx.prices.put("2-none", {"version": "2-none", "models": {}})
    await world.edge.gateway.refresh()
    client = world.sdk(tenant)
    answer = await client.chat.completions.create(model="seedling", messages=HELLO)
    assert answer.usage.total_tokens
    assert (await client.chat.completions.create(model="support", messages=HELLO)).choices
    with pytest.raises(openai.NotFoundError):
        await client.chat.completions.create(model="nothing", messages=HELLO)
    async with world.store.read() as tx:
        book = await tx.prices.current()
    assert list(book["models"]) == ["seedling"]


async def test_a_model_is_found_by_every_name_that_may_be_called(world):
    tenant, other = await world.tenant("acme"), await world.tenant("evil")
    version = await world.finish(tenant, await world.job(tenant))
    client = world.sdk(tenant)
    for name in ("support", "support@production", "support@1", version.model):
        assert (await client.models.retrieve(name)).id == version.model
        with pytest.raises(openai.NotFoundError):
            await world.sdk(other).models.retrieve(name)
    for name in ("support@2", "support@beta", "nothing"):
        with pytest.raises(openai.NotFoundError):
            await client.models.retrieve(name)
