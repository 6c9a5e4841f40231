"""A job from its creation to its bill, on both databases."""

from __future__ import annotations

from controlhouse import PRICE, STEPS, TOKENS, House, rows

from graftwork.billing import machine_key, training_key
from graftwork.core.money import seconds_cost
from graftwork.core.states import EntryState, Outcome, Phase, PlacementState, Verdict
from graftwork.registry import receipt_of


async def test_a_job_goes_from_file_to_served_alias_and_bill(both: House):
    created = await both.create(metadata={"team": "a"})
    assert created.status == "validating_files"
    assert created.adapter == "codes"

    job = await both.until(created.job.id)

    log = await both.log(job.id)
    assert job.phase is Phase.DONE, log
    assert job.fine_tuned_model == f"ft:seedling:acme:codes:{job.id.removeprefix('ftjob-')[:8]}"
    assert job.trained_tokens == STEPS * TOKENS
    assert job.finished_at is not None
    assert job.estimated_finish is None
    view = await both.services.jobs.get(both.project.id, job.id)
    assert view.status == "succeeded"
    assert view.progress.step == STEPS
    assert view.progress.losses == (2.0, 1.0, 2 / 3, 0.5)
    assert view.progress.trained_tokens == STEPS * TOKENS
    assert view.evaluation is not None
    assert view.evaluation.verdict is Verdict.PASS
    assert view.version is not None
    assert view.version.number == 1
    assert view.machine is not None
    assert view.machine.gone_at is not None
    assert view.hyperparameters["n_epochs"] == 10
    await _machine_and_money(both, job.id, view.cost)
    await _served(both, view.version.weights)


async def _machine_and_money(house: House, job_id: str, cost: int) -> None:
    [machine] = house.cloud.machines
    assert not house.living()
    seconds = machine.seconds(house.clock.now())
    async with house.store.read() as tx:
        tokens = await tx.ledger.get(training_key(job_id))
        time = await tx.ledger.get(machine_key(machine.name))
        run = await tx.runs.latest(job_id)
    assert tokens is not None and time is not None and run is not None
    assert tokens.state is EntryState.SETTLED
    assert tokens.amount == STEPS * TOKENS  # a dollar for a million
    assert time.amount == seconds_cost(seconds, PRICE)
    assert cost == tokens.amount + time.amount
    assert run.outcome is Outcome.SUCCEEDED
    bill = await house.services.billing.bill(house.project.id)
    assert bill.total == cost
    assert bill.reserved == 0


async def _served(house: House, weights: str) -> None:
    [adapter] = await house.services.adapters.list(house.project.id)
    [alias] = adapter.aliases
    assert (alias.name, alias.generation) == ("production", 1)
    [version] = adapter.versions
    assert version.name == "codes@1"
    assert version.aliases == ("production",)
    assert version.placement is not None
    assert version.placement.state is PlacementState.READY
    assert version.placement.probe is not None
    assert version.placement.probe["effect"]["ok"]
    assert version.placement.probe["agreement"]["mean"] < 1e-6
    [move] = adapter.moves
    assert (move.from_version, move.to_version, move.actor) == (None, 1, "gate")
    assert weights[:32] in await house.engine.adapters()
    receipt = receipt_of(version.version.manifest)
    assert receipt.verdict is Verdict.PASS
    assert receipt.cost == STEPS * TOKENS
    assert receipt.train.rows == 30
    assert receipt.valid is not None and receipt.valid.rows == 12


async def test_the_log_speaks_as_openai_does(house: House):
    job = await house.until((await house.create()).job.id)
    log = (await house.log(job.id)).splitlines()
    wanted = [
        f"info: Created fine-tuning job: {job.id}",
        f"info: Validating training file: {job.training_file}",
        f"info: Validating validation file: {job.validation_file}",
        "info: Files validated, moving job to queued state",
        "info: Fine-tuning job started",
        "info: Step 1/4: training loss=2",
        "info: Step 4/4: training loss=0.5, validation loss=0.625",
        f"info: New fine-tuned model created: {job.fine_tuned_model}",
        "info: The job has successfully completed",
    ]
    places = [log.index(line) for line in wanted]
    assert places == sorted(places)
    assert log[-1] == wanted[-1]


async def test_metrics_checkpoints_and_the_result_file(house: House):
    job = await house.until((await house.create()).job.id)
    events = await house.services.jobs.events(house.project.id, job.id, limit=100)
    metrics = [event for event in events.items if event.type == "metrics"]
    assert [event.data["step"] for event in metrics if event.data] == [4, 3, 2, 1]
    assert metrics[0].data is not None
    assert metrics[0].data["total_steps"] == STEPS
    assert metrics[0].data["valid_loss"] == 0.625
    assert metrics[0].data["train_mean_token_accuracy"] == 0.5
    page = await house.services.jobs.checkpoints(house.project.id, job.id)
    assert [view.checkpoint.step for view in page.items] == [4, 2]
    assert all(view.callable for view in page.items)
    assert page.items[1].model == f"{job.fine_tuned_model}:ckpt-step-2"
    [result] = job.result_files
    stored, content = await house.services.files.content(house.project.id, result)
    text = b"".join([chunk async for chunk in content]).decode()
    assert stored.purpose == "fine-tune-results"
    assert text.splitlines()[0] == "step,train_loss,train_accuracy,valid_loss,valid_mean_token_accuracy"
    assert text.splitlines()[4] == "4,0.5,0.5,0.625,0.4"
    assert len(text.splitlines()) == 1 + STEPS


async def test_without_a_validation_file_rows_are_held_out_and_it_is_said(house: House):
    created = await house.create(
        rows(40), validation_file=None, options={"holdout": 0.3}, hyperparameters={"n_epochs": 2}
    )
    job = await house.until(created.job.id)
    assert "12 of 40 rows are held out" in await house.log(job.id)
    assert job.phase is Phase.DONE
    assert job.plan is not None
    assert job.plan["held_out"]
    assert (job.plan["spec"]["train"]["rows"], job.plan["spec"]["valid"]["rows"]) == (28, 12)
    assert job.plan["spec"]["schedule"]["n_epochs"] == 2


async def test_validation_rows_longer_than_every_training_row_are_measured_whole(house: House):
    long = rows(11, start=500) + rows(1, start=900).replace(b"What", b"Tell me at once and in one word: what")
    valid = await house.upload(long, "valid.jsonl")
    job = await house.until((await house.create(validation_file=valid.id)).job.id, Phase.DONE)
    view = await house.services.jobs.get(house.project.id, job.id)
    assert view.evaluation is not None
    assert view.evaluation.report["scores"]["new"]["exact_match_interval"]["rows"] == 12


async def test_a_second_version_is_measured_against_the_live_one(house: House):
    first = await house.until((await house.create()).job.id)
    house.script.seed = 1
    second = await house.until((await house.create()).job.id)
    view = await house.services.jobs.get(house.project.id, second.id)
    assert view.evaluation is not None
    assert set(view.evaluation.report["scores"]) == {"new", "base", "live"}
    adapter = await house.services.adapters.show(house.project.id, "codes")
    assert [version.version.number for version in adapter.versions] == [2, 1]
    assert adapter.aliases[0].version_id == second.version_id
    assert first.version_id != second.version_id
