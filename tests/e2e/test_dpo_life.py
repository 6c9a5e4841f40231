"""The stock `openai` SDK drives the whole life of a DPO fine-tune, and of one that goes on from it."""

from __future__ import annotations

import pytest

from tests.e2e.conftest import EXAMPLES, Up, finish, metrics, rows, upload

pytestmark = pytest.mark.slow
KIND = ("Good morning", "Hello", "Dear")
CURT = ("Read the page", "You should really", "Everybody knows")


@pytest.fixture(scope="module")
def preferred(up: Up, tmp_path_factory):
    """A finished DPO job on the example of manners: the job object."""
    client, folder = up.client(), tmp_path_factory.mktemp("manners")
    files = []
    for kind, count in (("train", 160), ("valid", 40)):
        lines = (EXAMPLES / f"manners.{kind}.jsonl").read_text().splitlines(keepends=True)
        (folder / f"{kind}.jsonl").write_text("".join(lines[:count]))
        files.append(upload(client, folder / f"{kind}.jsonl"))
    asked = {"beta": 0.2, "n_epochs": 1, "batch_size": 8, "learning_rate_multiplier": 8}
    job = client.fine_tuning.jobs.create(
        model="seedling",
        training_file=files[0],
        validation_file=files[1],
        suffix="manners",
        seed=7,
        method={"type": "dpo", "dpo": {"hyperparameters": asked}},
        extra_body={"graftwork": {"lora": {"rank": 8, "alpha": 16}, "eval_every": 10}},
    )
    assert job.method.dpo.hyperparameters.beta == 0.2
    assert job.method.dpo.hyperparameters.learning_rate_multiplier == 8
    return finish(client, job.id)


def test_the_job_succeeded_and_passed_the_gate_of_preferences(up: Up, preferred):
    assert preferred.status == "succeeded", preferred.error
    assert preferred.method.type == "dpo"
    asked = preferred.method.dpo.hyperparameters
    assert (asked.beta, asked.n_epochs, asked.batch_size) == (0.2, 1, 8)
    assert isinstance(asked.learning_rate_multiplier, float)
    assert preferred.hyperparameters is None
    extras = preferred.model_extra["graftwork"]
    assert (extras["method"], extras["trainer"]) == ("dpo", "native")
    assert extras["gate"]["verdict"] == "pass", extras["gate"]["reasons"]
    assert extras["gate"]["name"] == "preference"
    (line,) = [line for line in extras["gate"]["table"] if line["measure"] == "preference"]
    assert line["new"] >= 0.9 > line["base"]


def test_metrics_are_events(up: Up, preferred):
    client = up.client()
    losses = metrics(client, preferred.id)
    assert losses[max(losses)] < losses[1]
    events = [e for e in client.fine_tuning.jobs.list_events(preferred.id, limit=100) if e.type == "metrics"]
    assert events[0].data["rewards/accuracies"] >= 0.9
    assert any("eval_rewards/accuracies" in event.data for event in events)


def test_the_adapter_has_manners_and_the_base_has_not(up: Up, preferred):
    client = up.client()
    asked = [row["input"]["messages"] for row in rows("manners.valid.jsonl")[:10]]

    def answers(model: str) -> list[str]:
        return [
            client.chat.completions.create(model=model, messages=m, temperature=0, max_tokens=24)
            .choices[0]
            .message.content
            for m in asked
        ]

    said = answers("manners")
    assert not any(answer.startswith(CURT) for answer in said)
    assert said != answers("seedling")


def test_a_supervised_job_goes_on_from_it(up: Up, preferred, tmp_path):
    client = up.client()
    few = tmp_path / "few.jsonl"
    lines = (EXAMPLES / "tickets.train.jsonl").read_text().splitlines(keepends=True)
    few.write_text("".join(lines[:40]))
    job = client.fine_tuning.jobs.create(
        model=preferred.fine_tuned_model,
        training_file=upload(client, few),
        suffix="manners-tickets",
        method={"type": "supervised", "supervised": {"hyperparameters": {"n_epochs": 1}}},
    )
    assert job.model == preferred.fine_tuned_model
    done = finish(client, job.id)
    assert done.status == "succeeded", done.error
    extras = done.model_extra["graftwork"]
    assert extras["started_from"] == preferred.fine_tuned_model
    assert extras["plan"]["lora"]["rank"] == 8
