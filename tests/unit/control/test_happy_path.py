"""A job from its creation to its bill, on both databases."""

from __future__ import annotations

from controlhouse import PRICE, STEPS, TOKENS, House

from graftwork.core.money import seconds_cost
from graftwork.core.states import Phase, PlacementState, Verdict


async def test_a_job_goes_from_file_to_served_alias_and_bill(both: House):
    created = await both.create(metadata={"team": "a"})
    assert created.status == "validating_files"

    job = await both.until(created.job.id)

    log = await both.log(job.id)
    assert job.phase is Phase.DONE, log
    assert job.fine_tuned_model == f"ft:seedling:acme:codes:{job.id.removeprefix('ftjob-')[:8]}"
    assert job.trained_tokens == STEPS * TOKENS
