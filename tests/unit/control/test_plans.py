"""Plans of jobs that are not made: the same as the job's own, and nothing is left behind."""

from __future__ import annotations

from dataclasses import replace

import pytest
from controlhouse import House

from graftwork.control.services.plans import PlansService
from graftwork.control.services.requests import JobRequest
from graftwork.core.errors import InvalidData, InvalidRequest, NotFound
from graftwork.models import Target

HOST = Target(name="this host", memory=8 << 30, cores=2, price_per_hour=3_600_000)


def plans(house: House, *targets: Target) -> PlansService:
    async def machines():
        return targets

    return PlansService(house.store, house.artifacts, house.bases, house.services.jobs, machines)


async def test_a_plan_is_what_the_job_does(house: House):
    file = await house.upload()
    request = JobRequest(model="seedling", training_file=file.id, seed=7)
    found = await plans(house, HOST).plan(house.project.id, request)
    assert found["fits"] and found["machine"] == "this host"
    assert found["machine_cost_micro"] > 0 and found["price"].startswith("$")
    assert any("Machine: this host" in line for line in found["why"])
    assert await house.services.jobs.list(house.project.id) is not None
    job = await house.until((await house.create(training_file=file.id, validation_file=None, seed=7)).job.id)
    assert job.plan is not None
    assert {**job.plan["spec"]["schedule"], "explained": 0} == {**found["schedule"], "explained": 0}
    assert job.plan["estimate"]["trained_tokens"] == found["trained_tokens"]
    assert job.plan["quote"]["amount"] == found["price_micro"]
    assert found["rows"] + found["held_out"] == job.plan["train"]["rows"] + job.plan["valid"]["rows"]
    assert set(found["explained"]) == set(job.plan["spec"]["schedule"]["explained"])


async def test_what_fits_nowhere_is_planned_and_said(house: House):
    file = await house.upload()
    request = JobRequest(model="seedling", training_file=file.id)
    small = replace(HOST, memory=100 << 20)
    found = await plans(house, small).plan(house.project.id, request)
    assert not found["fits"] and "does not fit" in found["why"][-1]
    anywhere = await house.services.plans.plan(house.project.id, request)
    assert anywhere["fits"] and anywhere["machine_cost"] is None


async def test_what_cannot_be_planned_is_refused(house: House):
    file = await house.upload()
    bad = await house.upload(b'{"prompt": 1}\n', "bad.jsonl")
    service = plans(house, HOST)
    for request, error in (
        (JobRequest(model="seedling", training_file="file-nope"), NotFound),
        (JobRequest(model="nothing", training_file=file.id), NotFound),
        (JobRequest(model="seedling", training_file=bad.id), InvalidData),
        (JobRequest(model="seedling", training_file=file.id, options={"colour": 1}), InvalidRequest),
    ):
        with pytest.raises(error):
            await service.plan(house.project.id, request)
    with pytest.raises(NotFound):
        await service.plan("proj_other", JobRequest(model="seedling", training_file=file.id))
