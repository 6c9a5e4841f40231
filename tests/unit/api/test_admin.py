"""The admin API: adapters, keys, bills, following a job, the installation."""

import io
import json
import zipfile

import orjson
import pytest

from graftwork.core.nouns import Run
from graftwork.core.states import Phase, Verdict
from graftwork.runs.transport import LocalTransport
from graftwork.runs.writer import RunWriter
from tests.unit.api.conftest import ADAPTER

CHAT = {"messages": [{"role": "user", "content": "hi"}], "model": "support"}


async def test_an_adapter_its_versions_and_moves(world):
    tenant = await world.tenant()
    for _ in range(2):
        await world.finish(tenant, await world.job(tenant))
    [adapter] = (await world.call(tenant, "GET", "/api/adapters")).json()["data"]
    assert adapter == (await world.call(tenant, "GET", "/api/adapters/support")).json()
    assert (adapter["name"], adapter["base"]) == ("support", "seedling")
    [alias] = adapter["aliases"]
    assert (alias["name"], alias["version"], alias["generation"]) == ("production", 2, 2)
    assert [v["number"] for v in adapter["versions"]] == [2, 1]
    assert [(m["version"], m["from_version"]) for m in adapter["moves"]] in ([(2, 1), (1, None)],)
    one = (await world.call(tenant, "GET", "/api/adapters/support/versions/2")).json()
    assert one["manifest"]["receipt"]
    assert (one["gate"]["name"], one["gate"]["verdict"]) == ("default", "pass")
    assert one["gate"]["table"][0]["measure"] == "loss"
    assert "samples" in one["evaluation"]
    assert one["placement"]["state"] == "ready"
    assert one["aliases"] == ["production"]


async def test_promotion_is_followed_by_the_next_request(world):
    tenant = await world.tenant()
    first = await world.finish(tenant, await world.job(tenant))
    second = await world.finish(tenant, await world.job(tenant))

    async def serving():
        answer = await world.call(tenant, "POST", "/v1/chat/completions", json=CHAT)
        return answer.headers["x-graftwork-model"]

    assert await serving() == second.model
    back = await world.call(tenant, "POST", "/api/adapters/support/rollback", json={"reason": "worse"})
    assert (back.status_code, back.json()["version"]) == (200, 1)
    assert await serving() == first.model
    body = {"version": 2, "expected_generation": 3}
    moved = await world.call(tenant, "POST", "/api/adapters/support/promote", json=body)
    assert (moved.json()["version"], moved.json()["generation"]) == (2, 4)
    assert await serving() == second.model
    late = await world.call(
        tenant, "POST", "/api/adapters/support/promote", json={"version": 1, "expected_generation": 3}
    )
    assert (late.status_code, late.json()["error"]["code"]) == (409, "alias_moved")


async def test_a_version_that_did_not_pass_needs_force_and_a_reason(world):
    tenant = await world.tenant()
    await world.finish(tenant, await world.job(tenant), verdict=Verdict.INCONCLUSIVE)
    path = "/api/adapters/support/promote"
    refused = await world.call(tenant, "POST", path, json={"version": 1})
    assert refused.status_code == 409
    bare = await world.call(tenant, "POST", path, json={"version": 1, "force": True})
    assert bare.status_code == 400
    forced = await world.call(tenant, "POST", path, json={"version": 1, "force": True, "reason": "I looked"})
    assert forced.status_code == 200
    moves = (await world.call(tenant, "GET", "/api/adapters/support")).json()["moves"]
    assert moves[0]["actor"] == tenant.key_id
    assert "I looked" in moves[0]["reason"]


@pytest.mark.parametrize("body", [{}, {"version": 0}, {"version": 1, "alias": "No Good"}, {"versoin": 1}])
async def test_promotions_that_cannot_be_meant(world, body):
    tenant = await world.tenant()
    answer = await world.call(tenant, "POST", "/api/adapters/support/promote", json=body)
    assert answer.status_code == 400


async def test_deleting_a_version(world):
    tenant = await world.tenant()
    for _ in range(2):
        await world.finish(tenant, await world.job(tenant))
    live = await world.call(tenant, "DELETE", "/api/adapters/support/versions/2")
    assert live.status_code == 409
    gone = await world.call(tenant, "DELETE", "/api/adapters/support/versions/1")
    assert gone.json()["name"] == "support@1"
    answer = await world.call(tenant, "POST", "/v1/chat/completions", json=CHAT | {"model": "support@1"})
    assert answer.status_code == 404


async def test_a_versions_files_as_a_zip(world, tmp_path):
    tenant = await world.tenant()
    version = await world.finish(tenant, await world.job(tenant))
    url = "/api/adapters/support/versions/1/download"
    answer = await world.call(tenant, "GET", url)
    assert answer.headers["content-type"] == "application/zip"
    assert answer.headers["content-disposition"] == 'attachment; filename="support-1.zip"'
    assert int(answer.headers["content-length"]) == len(answer.content)
    with zipfile.ZipFile(io.BytesIO(answer.content)) as archive:
        assert {name: archive.read(name) for name in archive.namelist()} == ADAPTER
    assert (await world.call(tenant, "GET", url)).content == answer.content

    digest = version.manifest["files"]["adapter_model.safetensors"]
    blob = tmp_path / "artifacts" / "sha256" / digest[:2] / digest
    blob.chmod(0o644)
    blob.write_bytes(b"damaged")
    answer = await world.call(tenant, "GET", url)
    assert (answer.status_code, answer.json()["error"]["code"]) == (500, "artifact_corrupt")


async def test_keys_are_shown_once_and_die_at_once(world):
    tenant = await world.tenant()
    made = (await world.call(tenant, "POST", "/api/keys", json={"name": "ci"})).json()
    fresh = type(tenant)(tenant.project, made["key"], made["id"])
    assert (await world.call(fresh, "GET", "/v1/models")).status_code == 200
    listed = await world.call(tenant, "GET", "/api/keys")
    assert {key["name"] for key in listed.json()["data"]} == {"first", "ci"}
    assert made["key"] not in listed.text
    assert not any("digest" in key for key in listed.json()["data"])
    revoked = await world.call(tenant, "DELETE", f"/api/keys/{made['id']}")
    assert revoked.json() == {"id": made["id"], "revoked": True}
    assert (await world.call(fresh, "GET", "/v1/models")).status_code == 401
    answer = await world.call(fresh, "POST", "/v1/chat/completions", json=CHAT)
    assert answer.status_code == 401
    short = await world.call(tenant, "POST", "/api/keys", json={"name": "x", "expires_after": -1})
    assert short.status_code == 400


async def test_a_bill_adds_up(world):
    tenant = await world.tenant(budget=1_000_000)
    version = await world.finish(tenant, await world.job(tenant))
    answers = [await world.call(tenant, "POST", "/v1/chat/completions", json=CHAT) for _ in range(3)]
    used = [a.json()["usage"] for a in answers]
    bill = (await world.call(tenant, "GET", "/api/bill")).json()
    lines = {line["kind"]: line for line in bill["lines"]}
    assert lines["training_tokens"] | {"quantities": 0} == {
        "kind": "training_tokens",
        "model": "seedling",
        "entries": 1,
        "quantity": 120,
        "unit": "tokens",
        "quantities": 0,
        "price_version": "p1",
        "unit_price": "$0.10 / 1M trained tokens",
        "amount_micro": 12,
        "amount": "$0.000012",
        "reserved_micro": 0,
    }
    inference = lines["inference"]
    assert (inference["model"], inference["entries"]) == (version.model, 3)
    assert inference["quantity"] == sum(u["total_tokens"] for u in used)
    owed = sum(u["prompt_tokens"] + 2 * u["completion_tokens"] for u in used)
    assert inference["amount_micro"] == owed
    assert bill["total_micro"] == owed + 12 == bill["budget"]["spent_micro"]
    assert bill["budget"]["left_micro"] == 1_000_000 - owed - 12
    empty = (await world.call(tenant, "GET", "/api/bill?until=5")).json()
    assert (empty["lines"], empty["total_micro"]) == ([], 0)
    first = (await world.call(tenant, "GET", "/api/usage?limit=3")).json()
    rest = (await world.call(tenant, "GET", f"/api/usage?after={first['data'][-1]['id']}")).json()
    entries = first["data"] + rest["data"]
    assert (first["has_more"], rest["has_more"], len(entries)) == (True, False, 4)
    assert sum(e["amount_micro"] for e in entries) == bill["total_micro"]


class Impatient:
    """The system's clock, but for sleeping, which does the next thing in a list."""

    def __init__(self, clock, *steps) -> None:
        self.now = clock.now
        self.steps = list(steps)

    async def sleep(self, seconds: float) -> None:
        if self.steps:
            await self.steps.pop(0)()


def parts(text: str) -> list[dict]:
    found = []
    for block in text.strip().split("\n\n"):
        if not block.startswith(":"):
            lines = dict(line.split(": ", 1) for line in block.split("\n"))
            found.append(lines | {"data": json.loads(lines["data"])})
    return found


async def test_a_job_is_watched_to_its_end_and_again_from_the_middle(world):
    tenant = await world.tenant()
    job = await world.job(tenant)

    async def move():
        await world.change(job, move=Phase.PLANNING)

    async def fail():
        await world.change(job, move=Phase.FAILED, error={"code": "x", "message": "y"}, finished_at=5.0)

    world.platform.clock = Impatient(world.clock, move, *[_nothing] * 31, fail)
    answer = await world.call(tenant, "GET", f"/api/jobs/{job}/watch")
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert ": still here\n\n" in answer.text
    seen = parts(answer.text)
    events = [part for part in seen if part["event"] == "event"]
    assert events[0]["data"]["message"] == f"Created fine-tuning job: {job}"
    assert [e["id"] for e in events] == sorted({e["id"] for e in events}, key=int)
    phases = [part["data"]["phase"] for part in seen if part["event"] == "progress"]
    assert phases == ["validating", "planning", "failed"]
    assert (seen[-1]["event"], seen[-1]["data"]["status"]) == ("done", "failed")
    again = await world.call(
        tenant, "GET", f"/api/jobs/{job}/watch", headers={"last-event-id": events[0]["id"]}
    )
    assert [p["id"] for p in parts(again.text) if p["event"] == "event"] == [e["id"] for e in events[1:]]
    bad = await world.call(tenant, "GET", f"/api/jobs/{job}/watch", headers={"last-event-id": "x"})
    assert bad.status_code == 400


async def _nothing() -> None:
    return


async def test_the_trainers_log(world, tmp_path):
    tenant = await world.tenant()
    job = await world.job(tenant)
    path = f"/api/jobs/{job}/logs"
    assert (await world.call(tenant, "GET", path)).json() == {"attempt": 0, "text": "", "cursor": 0}
    for fence in (1, 2):
        writer = RunWriter(LocalTransport(tmp_path / "run"), fence)
        writer.log(f"attempt {fence}\n")
        writer.flush()
        run = Run(job_id=job, fence=fence, uri=str(tmp_path / "run"), machine="m", created_at=1.0)
        async with world.store.begin() as tx:
            await tx.runs.create(run)
    newest = (await world.call(tenant, "GET", path)).json()
    assert (newest["attempt"], newest["text"]) == (2, "attempt 2\n")
    first = (await world.call(tenant, "GET", path + "?attempt=1")).json()
    assert first["text"] == "attempt 1\n"
    rest = (await world.call(tenant, "GET", f"{path}?after={newest['cursor']}")).json()
    assert rest["text"] == ""
    assert (await world.call(tenant, "GET", path + "?attempt=9")).status_code == 404


async def test_the_installation(world):
    tenant = await world.tenant()
    assert (await world.call(None, "GET", "/api/health")).json()["status"] == "ok"
    [check] = (await world.call(tenant, "GET", "/api/doctor")).json()["checks"]
    assert check["state"] == "ok"
    [model] = (await world.call(tenant, "GET", "/api/models")).json()["data"]
    assert model["prices"] == {"train": 100_000, "input": 20_000, "output": 40_000}
    assert (model["name"], model["context"]) == ("seedling", 512)
    sheet = (await world.call(tenant, "GET", "/api/models/seedling")).json()
    assert {**sheet, **model} == sheet
    assert sheet["targets"]["attention"] == ["q_proj", "k_proj", "v_proj", "o_proj"]
    assert sheet["serving"] == {"embedded": "", "vllm": ""}
    assert {row["method"] for row in sheet["memory"]} == {"sft", "dpo", "orpo", "kto", "cpt"}
    assert (await world.call(tenant, "GET", "/api/models/no/model")).status_code == 404
    document = (await world.call(None, "GET", "/openapi.json")).json()
    assert "/api/adapters/{name}/promote" in document["paths"]


async def test_data_is_checked_from_a_form_or_a_body(world):
    tenant = await world.tenant()
    validator = world.platform.datasets
    path = "/api/datasets/check"
    raw = await world.call(tenant, "POST", path + "?model=other&filename=a.csv&max_length=64", content=b"a,b")
    assert raw.json() == {"ok": True, "rows": 1, "validation": None, "estimate": {"steps": 1}}
    files = {"file": ("a.jsonl", b"{}"), "validation": ("v.jsonl", b"[]")}
    form = await world.call(tenant, "POST", path, files=files, data={"model": "seedling"})
    assert form.json()["validation"] == {"ok": True, "rows": 1}
    assert validator.asked[0] == (b"a,b", "a.csv", "other", None, 64)
    content, filename, base, validation, _ = validator.asked[1]
    assert (content, filename, base) == (b"{}", "a.jsonl", "seedling")
    assert (validation.content, validation.filename) == (b"[]", "v.jsonl")
    missing = await world.call(tenant, "POST", path, files={"other": ("a", b"x")})
    assert missing.json()["error"]["param"] == "file"
    assert orjson.loads(missing.content)["error"]["code"] == "missing_required_parameter"
