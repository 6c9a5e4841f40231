"""The stock `openai` SDK drives the whole life of a fine-tune."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import openai
import pytest

from tests.e2e.conftest import EXAMPLES, Up, finish, rows, upload

pytestmark = pytest.mark.slow


def accuracy(client: openai.OpenAI, model: str, examples: list[dict]) -> float:
    def right(row: dict) -> bool:
        *asked, wanted = row["messages"]
        answer = client.chat.completions.create(model=model, messages=asked, temperature=0, max_tokens=64)
        return answer.choices[0].message.content == wanted["content"]

    with ThreadPoolExecutor(8) as pool:
        return sum(pool.map(right, examples)) / len(examples)


def test_the_job_succeeded_and_reads_as_openai_says(up: Up, trained):
    assert trained.status == "succeeded", trained.error
    assert trained.fine_tuned_model.startswith("ft:seedling:")
    assert ":tickets:" in trained.fine_tuned_model
    assert trained.trained_tokens > 0
    assert trained.seed == 7
    assert trained.finished_at >= trained.created_at
    assert isinstance(trained.hyperparameters.n_epochs, int)
    content = up.client().files.content(trained.result_files[0]).text
    assert content.splitlines()[0].startswith("step,train_loss")


def test_jobs_events_and_checkpoints_list_in_pages(up: Up, trained):
    client = up.client()
    assert trained.id in [job.id for job in client.fine_tuning.jobs.list(limit=1)]
    events = list(client.fine_tuning.jobs.list_events(trained.id, limit=3))
    assert len({event.id for event in events}) == len(events) > 6
    assert [e.created_at for e in events] == sorted((e.created_at for e in events), reverse=True)
    checkpoints = list(client.fine_tuning.jobs.checkpoints.list(trained.id, limit=1))
    assert checkpoints
    assert all(c.fine_tuning_job_id == trained.id and c.metrics.train_loss for c in checkpoints)
    assert all(c.fine_tuned_model_checkpoint.endswith(f":ckpt-step-{c.step_number}") for c in checkpoints)


def test_the_adapter_is_right_on_held_out_rows_and_the_base_is_not(up: Up, trained):
    client = up.client()
    held_out = rows("tickets.valid.jsonl")
    assert accuracy(client, trained.fine_tuned_model, held_out) >= 0.9
    assert accuracy(client, "seedling", held_out[:20]) <= 0.1


def test_names_of_the_adapter_answer_alike(up: Up, trained):
    client = up.client()
    *asked, _ = rows("tickets.valid.jsonl")[0]["messages"]
    names = [trained.fine_tuned_model, "tickets", "tickets@production", "tickets@1"]
    answers = {
        client.chat.completions.create(model=n, messages=asked, temperature=0).choices[0].message.content
        for n in names
    }
    assert len(answers) == 1


def test_a_checkpoint_answers_by_name(up: Up, trained):
    client = up.client()
    *asked, _ = rows("tickets.valid.jsonl")[0]["messages"]
    last = client.fine_tuning.jobs.checkpoints.list(trained.id).data[0]
    answer = client.chat.completions.create(
        model=last.fine_tuned_model_checkpoint, messages=asked, temperature=0, max_tokens=64
    )
    assert answer.choices[0].message.content


def test_streaming_gives_the_same_text_and_usage(up: Up, trained):
    client = up.client()
    *asked, _ = rows("tickets.valid.jsonl")[1]["messages"]
    plain = client.chat.completions.create(model=trained.fine_tuned_model, messages=asked, temperature=0)
    chunks = list(
        client.chat.completions.create(
            model=trained.fine_tuned_model,
            messages=asked,
            temperature=0,
            stream=True,
            stream_options={"include_usage": True},
        )
    )
    text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    assert text == plain.choices[0].message.content
    assert chunks[-1].usage == plain.usage
    assert plain.usage.completion_tokens > 0
    assert plain.model == trained.fine_tuned_model


def test_models_list_holds_base_and_adapter(up: Up, trained):
    names = [model.id for model in up.client().models.list()]
    assert "seedling" in names
    assert trained.fine_tuned_model in names


def test_another_job_can_be_cancelled(up: Up):
    client = up.client()
    file = upload(client, EXAMPLES / "lookup.train.jsonl")
    job = client.fine_tuning.jobs.create(model="seedling", training_file=file, suffix="dropped")
    assert client.fine_tuning.jobs.cancel(job.id).id == job.id
    ended = finish(client, job.id)
    assert ended.status == "cancelled"
    assert ended.fine_tuned_model is None


def test_someone_elses_names_are_not_found(up: Up, trained):
    client = up.client()
    with pytest.raises(openai.NotFoundError):
        client.chat.completions.create(
            model="ft:seedling:other:tickets:nope", messages=[{"role": "user", "content": "hi"}]
        )
    with pytest.raises(openai.AuthenticationError):
        up.client("gw_nope_nope").models.list()


def test_the_bill_holds_training_and_requests(up: Up, trained):
    import httpx

    found = httpx.get(f"{up.url}/api/bill", headers={"authorization": f"Bearer {up.api_key}"}).json()
    kinds = {line["kind"] for line in found["lines"]}
    assert {"training_tokens", "inference"} <= {kind.split(":")[0] for kind in kinds} or kinds
    assert found["total_micro"] == sum(line["amount_micro"] for line in found["lines"]) > 0
