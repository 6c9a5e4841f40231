"""Jobs by other methods, and jobs that go on from what was trained before."""

from __future__ import annotations

import json
from typing import Any

import pytest
from controlhouse import House

from graftwork.control.services.requests import JobRequest
from graftwork.core.errors import InvalidRequest, NotFound
from graftwork.core.nouns import Job
from graftwork.core.specs import RunSpec
from graftwork.core.states import Phase, Verdict
from graftwork.registry import receipt_of
from graftwork.runs.reader import RunReader
from graftwork.runs.transport import open_transport


def pairs(count: int = 30, start: int = 0, better: bool = True) -> bytes:
    """Preferences; the house's adapters favour the longer answer: the preferred one, if ``better``."""

    def said(text: str) -> list[dict[str, str]]:
        return [{"role": "assistant", "content": text}]

    rows: list[dict[str, Any]] = []
    for n in range(start, start + count):
        answers = [said(f"Item {n} is ready, and it was checked twice before."), said("No.")]
        chosen, rejected = answers if better else answers[::-1]
        asked = {"messages": [{"role": "user", "content": f"Is item {n} ready?"}]}
        rows.append({"input": asked, "preferred_output": chosen, "non_preferred_output": rejected})
    return b"".join(json.dumps(row).encode() + b"\n" for row in rows)


def reader(house: House, job: Job) -> RunReader:
    return RunReader(open_transport(house.ctx.uri(job)))


def spec_of(house: House, job: Job) -> RunSpec:
    return reader(house, job).spec()


async def test_a_dpo_job_is_gated_on_its_pairs(house: House):
    file = await house.upload(pairs(120))
    created = await house.create(
        training_file=file.id, validation_file=None, method="dpo", hyperparameters={"beta": 0.3}
    )
    job = await house.until(created.job.id)
    assert job.phase is Phase.DONE, await house.log(job.id)
    view = await house.services.jobs.get(house.project.id, job.id)
    assert view.hyperparameters["beta"] == 0.3
    assert view.evaluation is not None and view.version is not None
    assert view.evaluation.verdict is Verdict.PASS, view.evaluation.report["gate"]["reasons"]
    assert view.evaluation.report["gate"]["name"] == "preference"
    receipt = receipt_of(view.version.manifest)
    assert (receipt.method, receipt.trainer, receipt.start) == ("dpo", "native", None)
    assert receipt.preference is not None and receipt.preference.beta == 0.3


async def test_preferences_that_were_not_learnt_do_not_pass(house: House):
    file = await house.upload(pairs(120, better=False))
    created = await house.create(training_file=file.id, validation_file=None, method="dpo")
    job = await house.until(created.job.id)
    view = await house.services.jobs.get(house.project.id, job.id)
    assert view.evaluation is not None and view.evaluation.verdict is Verdict.FAIL


async def test_rows_of_another_method_end_the_job_with_words(house: House):
    file = await house.upload(pairs())
    job = await house.until((await house.create(training_file=file.id, validation_file=None)).job.id)
    assert job.error is not None
    assert "method_mismatch" in job.error["message"]


@pytest.mark.parametrize("method", ["orpo", "kto"])
async def test_other_preference_methods_are_trls(house: House, method: str):
    file = await house.upload(pairs())
    created = await house.create(training_file=file.id, validation_file=None, options={"method": method})
    spec = spec_of(house, await house.until(created.job.id))
    assert (spec.method, spec.trainer, spec.preference is not None) == (method, "trl", True)


async def test_a_base_in_4_bits_is_asked_of_the_trainer_and_written_down(house: House):
    created = await house.create(options={"quantization": "nf4"})
    job = await house.until(created.job.id)
    assert spec_of(house, job).quantization == "nf4"
    view = await house.services.jobs.get(house.project.id, job.id)
    assert job.plan is not None and job.plan["estimate"]["quantization"] == "nf4"
    assert view.version is not None and receipt_of(view.version.manifest).quantization == "nf4"


async def test_a_job_goes_on_from_a_version_and_says_so(house: House):
    first = await house.until((await house.create(options={"lora": {"rank": 4, "alpha": 8}})).job.id)
    assert first.fine_tuned_model is not None
    for name in (first.fine_tuned_model, "codes", "codes@1"):
        file = await house.upload(pairs(start=100))
        created = await house.create(
            model=name, training_file=file.id, validation_file=None, method="dpo", suffix=None
        )
        assert created.job.base == "seedling"
        job = await house.until(created.job.id)
        spec = spec_of(house, job)
        assert spec.start is not None and spec.start.model == first.fine_tuned_model
        assert (spec.lora.rank, spec.lora.alpha) == (4, 8)
        assert all(reader(house, job).file(f"start/{path}") for path in spec.start.files)
        view = await house.services.jobs.get(house.project.id, job.id)
        assert view.version is not None
        lineage = receipt_of(view.version.manifest).start
        assert lineage is not None and lineage.model == first.fine_tuned_model


async def test_a_job_goes_on_from_a_checkpoint(house: House):
    first = await house.until((await house.create()).job.id)
    (newest, *_) = (await house.services.jobs.checkpoints(house.project.id, first.id)).items
    created = await house.create(model=newest.model, suffix="again")
    job = await house.until(created.job.id)
    start = spec_of(house, job).start
    assert start is not None and start.model == newest.model


async def test_what_goes_on_keeps_its_shape(house: House):
    first = await house.until((await house.create(options={"lora": {"rank": 4}})).job.id)
    with pytest.raises(InvalidRequest) as refused:
        await house.create(model=first.fine_tuned_model, options={"lora": {"rank": 8}})
    assert (refused.value.code, refused.value.param) == ("start_mismatch", "graftwork.lora.rank")
    again = await house.create(model=first.fine_tuned_model, options={"lora": {"dropout": 0.1}})
    assert again.job.asked["options"]["lora"]["rank"] == 4
    assert again.job.asked["options"]["lora"]["dropout"] == 0.1


async def test_nobody_goes_on_from_anothers_work(house: House):
    first = await house.until((await house.create()).job.id)
    asked = JobRequest(model=first.fine_tuned_model or "", training_file=first.training_file)
    with pytest.raises(NotFound):
        await house.services.jobs.create("proj_other", asked)
