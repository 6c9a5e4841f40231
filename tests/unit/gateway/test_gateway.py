"""The request path as callers see it."""

import asyncio

import httpx
import orjson
import pytest

from graftwork.core.errors import TrainingError
from graftwork.core.states import EntryState, PlacementState
from graftwork.gateway import Gateway
from graftwork.gateway.requests import BODY_LIMIT
from graftwork.gateway.resolve import engine_name
from graftwork.serving.port import BASE as ENGINE_BASE
from graftwork.serving.port import engine_name as engines_name

HELLO = [{"role": "user", "content": "hello"}]


async def test_a_plain_answer_is_ours_and_billed(both):
    tenant = await both.tenant()
    version = await both.version(tenant)
    answer = await both.chat(tenant)
    assert answer.status == 200
    body = answer.json()
    assert body["model"] == "support"
    assert body["id"].startswith("chatcmpl-")
    assert body["choices"][0]["message"]["content"] == f"{engine_name(version.weights)} says hello"
    assert answer.headers["x-graftwork-model"] == version.model
    assert answer.headers["x-graftwork-version"] == "support@1"
    [entry] = await both.ledger(tenant)
    usage = body["usage"]
    owed = usage["prompt_tokens"] + 2 * usage["completion_tokens"]
    assert (entry.state, entry.amount, entry.kind) == (EntryState.SETTLED, owed, "inference")
    assert entry.quantity == {k: usage[k] for k in ("prompt_tokens", "completion_tokens")}
    assert answer.headers["x-graftwork-cost-usd"] == f"0.{owed:06d}"
    assert entry.refs == {
        "model": version.model,
        "asked": "support",
        "base": "seedling",
        "version": "support@1",
        "weights": version.weights,
        "key": tenant.key_id,
        "request": answer.headers["x-request-id"],
        "route": "chat.completions",
    }


async def test_a_streamed_answer_is_ours_and_billed(both):
    tenant = await both.tenant()
    version = await both.version(tenant)
    plain = await both.chat(tenant, stream=True)
    asked = await both.chat(tenant, stream=True, stream_options={"include_usage": True})
    assert plain.headers["content-type"].startswith("text/event-stream")
    for answer in (plain, asked):
        assert answer.body.endswith(b"data: [DONE]\n\n")
        assert {(e["model"], e["id"][:9]) for e in answer.events()} == {("support", "chatcmpl-")}
        text = "".join(e["choices"][0]["delta"].get("content") or "" for e in answer.events() if e["choices"])
        assert text == f"{engine_name(version.weights)} says hello"
    assert not any("usage" in event for event in plain.events())
    usage = asked.events()[-1]["usage"]
    for entry in await both.ledger(tenant):
        assert entry.state is EntryState.SETTLED
        assert entry.quantity == {k: usage[k] for k in ("prompt_tokens", "completion_tokens")}


async def test_plain_completions(world):
    tenant = await world.tenant()
    await world.version(tenant)
    answer = await world.post("/v1/completions", tenant, {"model": "support@1", "prompt": "hi"})
    assert answer.json()["id"].startswith("cmpl-")
    assert answer.json()["object"] == "text_completion"
    streamed = await world.post(
        "/v1/completions", tenant, {"model": "support@1", "prompt": "hi", "stream": True}
    )
    assert "".join(e["choices"][0]["text"] for e in streamed.events()).endswith("says hi")


async def test_every_kind_of_name(world):
    tenant = await world.tenant()
    first = await world.version(tenant)
    second = await world.version(tenant, alias="staging")
    named = {
        "support": first,
        "support@production": first,
        "support@1": first,
        "support@2": second,
        "support@staging": second,
        first.model: first,
        second.model: second,
        f"{second.model}:ckpt-step-10": second,
    }
    for name, version in named.items():
        answer = await world.chat(tenant, name)
        assert answer.status == 200, name
        said = answer.json()["choices"][0]["message"]["content"]
        assert said.startswith(engine_name(version.weights)), name
    answer = await world.chat(tenant, "seedling")
    assert answer.json()["choices"][0]["message"]["content"] == "base says hello"
    assert answer.headers["x-graftwork-model"] == "seedling"
    assert "x-graftwork-version" not in answer.headers


@pytest.mark.parametrize(
    "name",
    [
        "nothing",
        "support@9",
        "support@",
        "support@nope",
        "ft:seedling:acme:x:y",
        "base",
        "../../etc/passwd",
        "@1",
    ],
)
async def test_unknown_names_are_one_404(world, name):
    tenant = await world.tenant()
    await world.version(tenant)
    answer = await world.chat(tenant, name)
    assert answer.status == 404
    assert answer.json()["error"]["code"] == "model_not_found"
    assert answer.json()["error"]["param"] == "model"
    assert await world.ledger(tenant) == []


async def test_another_projects_names_answer_as_if_they_were_not(world):
    owner, other = await world.tenant("acme"), await world.tenant("evil")
    version = await world.version(owner)
    for name in ("support", "support@1", version.model, f"{version.model}:ckpt-step-10"):
        theirs, nothing = await world.chat(other, name), await world.chat(other, "n" * len(name))
        assert theirs.status == nothing.status == 404
        assert (
            theirs.json()["error"]["message"].replace(name, "n" * len(name))
            == (nothing.json()["error"]["message"])
        )
    digest = engine_name(version.weights)
    for name in (version.weights, digest):
        assert (await world.chat(owner, name)).status == 404


async def test_an_adapter_without_a_promoted_version_says_so_to_its_owner_alone(world):
    owner, other = await world.tenant("acme"), await world.tenant("evil")
    await world.version(owner, alias=None)
    answer = await world.chat(owner, "support")
    assert (answer.status, answer.json()["error"]["code"]) == (404, "model_not_found")
    assert "support@1" in answer.json()["error"]["message"]
    assert "support@1" not in (await world.chat(other, "support")).json()["error"]["message"]


async def test_an_alias_moves_and_the_next_request_follows(world):
    tenant = await world.tenant()
    first = await world.version(tenant)
    second = await world.version(tenant)
    await world.gateway.refresh()
    answer = await world.chat(tenant)
    assert answer.headers["x-graftwork-model"] == second.model != first.model


async def test_no_key_a_wrong_key_a_revoked_key_an_expired_key(both):
    tenant, late = await both.tenant(), await both.tenant("late", expires_at=1.0)
    await both.version(tenant)
    assert (await both.chat(tenant)).status == 200
    for key in (
        "",
        "sk-nonsense",
        tenant.key[:-1] + "!",
        "gw_" + "a" * 12 + "_" + "b" * 40,
        tenant.key + "x",
    ):
        bad = type(tenant)(tenant.project, key, "")
        assert (await both.chat(bad)).status == 401
    assert (await both.chat(late)).status == 401
    missing = await both.chat(None)
    assert (missing.status, missing.json()["error"]["type"]) == (401, "authentication_error")
    async with both.store.begin() as tx:
        await tx.keys.revoke(tenant.project, tenant.key_id, 5.0)
    await both.gateway.refresh()
    assert (await both.chat(tenant)).status == 401


async def test_a_key_made_a_moment_ago_works_at_once(make_world):
    async with make_world(poll=60) as world:
        tenant = await world.tenant()
        await world.version(tenant)
        assert (await world.chat(tenant)).status == 200


async def test_a_secret_is_checked_not_just_the_lookup(world):
    tenant, other = await world.tenant(), await world.tenant("other")
    head, _, _ = tenant.key.rpartition("_")
    mixed = head + "_" + other.key.rpartition("_")[2]
    assert (await world.chat(type(tenant)("", mixed, ""))).status == 401


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        (b"{", 400, "invalid_json"),
        (b"", 400, "invalid_json"),
        ({"model": "support"}, 400, "missing_required_parameter"),
        ({"model": "support", "messages": HELLO, "n": 9}, 400, "invalid_value"),
        (b" " * (BODY_LIMIT + 1), 413, "request_too_large"),
    ],
)
async def test_bad_bodies(world, body, status, code):
    tenant = await world.tenant()
    answer = await world.post("/v1/chat/completions", tenant, body)
    assert (answer.status, answer.json()["error"]["code"]) == (status, code)
    assert answer.headers["x-request-id"].startswith("req_")
    assert answer.json()["error"].keys() >= {"message", "type", "param", "code"}


async def test_other_methods_and_paths(world):
    tenant = await world.tenant()
    assert (await world.post("/v1/chat/completions", tenant, {}, method="GET")).status == 405
    assert (await world.post("/v1/embeddings", tenant, {})).status == 404


async def test_a_body_longer_than_announced_is_cut_off(world):
    tenant = await world.tenant()

    async def pieces():
        for _ in range(9):
            yield b" " * 1024 * 1024

    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(world.gateway), base_url="http://gateway"
    ) as client:
        answer = await client.post(
            "/v1/completions", content=pieces(), headers={"authorization": f"Bearer {tenant.key}"}
        )
    assert answer.status_code == 413


async def test_a_model_that_is_not_placed_is_asked_for_and_waited_for(both):
    tenant = await both.tenant()
    version = await both.version(tenant, ready=False)
    waiting = asyncio.create_task(both.chat(tenant))
    for _ in range(200):
        async with both.store.read() as tx:
            wanted = await tx.placements.by_weights(version.weights)
        if wanted:
            break
        await asyncio.sleep(0.01)
    assert wanted.project_id == tenant.project
    await both.place(tenant, version.weights)
    assert (await waiting).status == 200


async def test_a_caller_that_leaves_while_it_waits_pays_nothing(make_world, line):
    async with make_world(patience=60) as world:
        tenant = await world.tenant()
        await world.version(tenant, ready=False)
        body = {"model": "support", "messages": HELLO}
        call = line(world.gateway, "/v1/chat/completions", tenant.key, body)
        while not (await _placements(world)):
            await asyncio.sleep(0.01)
        await call.hang_up()
        assert call.sent == []
        assert await world.ledger(tenant) == []


async def _placements(world):
    async with world.store.read() as tx:
        return await tx.placements.list(world.endpoint.id)


async def test_a_model_that_does_not_become_ready_is_a_503_never_the_base(make_world):
    async with make_world(patience=0.05) as world:
        tenant = await world.tenant()
        version = await world.version(tenant, ready=False)
        for name in ("support", version.model):
            answer = await world.chat(tenant, name)
            assert (answer.status, answer.json()["error"]["code"]) == (503, "model_not_ready")
            assert int(answer.headers["retry-after"]) > 0
        assert world.engine.backend.seen == []
        assert await world.ledger(tenant) == []


async def test_a_placement_of_an_older_engine_is_not_ready(make_world):
    async with make_world(patience=0.05) as world:
        tenant = await world.tenant()
        version = await world.version(tenant)
        async with world.store.begin() as tx:
            await tx.endpoints.update(world.endpoint.id, generation=2)
        await world.gateway.refresh()
        assert (await world.chat(tenant)).status == 503
        await world.place(tenant, version.weights, generation=2)
        await world.gateway.refresh()
        assert (await world.chat(tenant)).status == 200


async def test_a_failed_placement_says_why_at_once(make_world):
    async with make_world(patience=60) as world:
        tenant = await world.tenant()
        version = await world.version(tenant, ready=False)
        await world.place(tenant, version.weights, state=PlacementState.FAILED, reason="no effect seen")
        answer = await world.chat(tenant)
        assert answer.status == 503
        assert "no effect seen" in answer.json()["error"]["message"]


async def test_a_base_model_without_an_endpoint_gets_one(make_world):
    async with make_world(patience=0.05) as world:
        book = {"version": "p2", "models": {"other": {"train": 1, "input": 1, "output": 1}}}
        async with world.store.begin() as tx:
            await tx.prices.put("p2", book)
        tenant = await world.tenant()
        assert (await world.chat(tenant, "other")).status == 503
        async with world.store.read() as tx:
            endpoint = await tx.endpoints.by_base("other")
        assert endpoint.engine == "embedded"


async def test_a_base_model_that_takes_long_to_be_known_is_asked_for_once(make_world):
    asked: list[str] = []
    known = asyncio.Event()

    async def learn(name: str) -> bool:
        asked.append(name)
        await known.wait()
        return False

    async with make_world(learn=learn, patience=0.02) as world:
        tenant = await world.tenant()
        answers = await asyncio.gather(*(world.chat(tenant, "org/new") for _ in range(3)))
        assert [answer.status for answer in answers] == [503] * 3
        assert asked == ["org/new"]
        known.set()
        assert (await world.chat(tenant, "org/new")).status == 404


async def test_a_budget_stops_what_might_pass_it(both):
    tenant = await both.tenant(budget=2000)
    await both.version(tenant)
    answer = await both.chat(tenant, max_tokens=5000)
    assert answer.status == 402
    error = answer.json()["error"]
    assert (error["code"], error["type"]) == ("insufficient_quota", "insufficient_quota")
    assert await both.ledger(tenant) == []
    assert (await both.chat(tenant, max_tokens=5)).status == 200


async def test_many_at_once_never_pass_the_budget(both):
    tenant = await both.tenant(budget=400)
    await both.version(tenant)
    both.engine.backend.delay = 0.01
    answers = await asyncio.gather(*(both.chat(tenant, max_tokens=20) for _ in range(20)))
    statuses = sorted(a.status for a in answers)
    assert statuses.count(200) > 0
    assert statuses.count(402) > 0
    entries = await both.ledger(tenant)
    assert len(entries) == statuses.count(200)
    assert sum(e.amount for e in entries) <= 400


@pytest.mark.parametrize("stream", [False, True])
async def test_an_engine_that_fails_is_not_billed_and_not_quoted(world, stream):
    tenant = await world.tenant()
    await world.version(tenant)
    world.engine.backend.fail = TrainingError("CUDA error at /srv/secret")
    answer = await world.chat(tenant, stream=stream)
    assert b"secret" not in answer.body
    if stream and answer.status == 200:
        assert answer.events()[-1]["error"]["code"] == "upstream_error"
        assert b"[DONE]" not in answer.body
    else:
        assert answer.status == 500
    [entry] = await world.ledger(tenant)
    assert (entry.state, entry.amount) == (EntryState.VOID, 0)


async def test_an_engine_that_is_gone_is_a_503_and_not_billed(world):
    tenant = await world.tenant()
    await world.version(tenant)
    await world.engine.crash()
    answer = await world.chat(tenant)
    assert answer.status == 503
    [entry] = await world.ledger(tenant)
    assert entry.state is EntryState.VOID


async def test_a_refusal_of_the_engine_names_the_field_in_our_words(world):
    tenant = await world.tenant()
    await world.version(tenant)
    answer = await world.chat(tenant, response_format={"type": "json_object"})
    assert answer.status == 400
    assert answer.json()["error"]["param"] == "response_format"
    [entry] = await world.ledger(tenant)
    assert entry.state is EntryState.VOID


async def test_a_model_the_engine_has_lost_is_not_ready(world):
    tenant = await world.tenant()
    await world.version(tenant)
    world.engine.backend.adapters.clear()
    answer = await world.chat(tenant)
    assert (answer.status, answer.json()["error"]["code"]) == (503, "model_not_ready")


async def test_a_caller_that_leaves_a_stream_pays_for_what_was_used(world, line):
    tenant = await world.tenant()
    await world.version(tenant)
    world.engine.backend.say = lambda model, messages: "word " * 500
    world.engine.backend.delay = 0.01
    body = {"model": "support", "messages": HELLO, "stream": True, "max_tokens": 400}
    call = line(world.gateway, "/v1/chat/completions", tenant.key, body)
    await call.until(6)
    await call.hang_up()
    [entry] = await world.ledger(tenant)
    assert entry.state is EntryState.SETTLED
    assert 0 < entry.quantity["completion_tokens"] < 400
    assert entry.quantity["prompt_tokens"] > 0
    for _ in range(100):
        if not world.engine.backend.running:
            break
        await asyncio.sleep(0.01)
    assert not world.engine.backend.running, "the engine was told to stop"


async def test_a_caller_that_leaves_before_a_plain_answer_pays_for_the_prompt(world, line):
    tenant = await world.tenant()
    await world.version(tenant)
    world.engine.backend.delay = 0.2
    call = line(world.gateway, "/v1/chat/completions", tenant.key, {"model": "support", "messages": HELLO})
    while not world.engine.backend.running:
        await asyncio.sleep(0.01)
    await call.hang_up()
    assert call.sent == []
    [entry] = await world.ledger(tenant)
    assert (entry.state, entry.quantity["completion_tokens"]) == (EntryState.SETTLED, 0)
    assert entry.quantity["estimated"] is True


async def test_the_open_row_is_there_before_the_engine_is_called_and_settled_before_the_end(world, line):
    tenant = await world.tenant()
    await world.version(tenant)
    states = []

    def say(model, messages):
        states.append("called")
        return "one two"

    world.engine.backend.say = say
    world.engine.backend.delay = 0.05
    body = {"model": "support", "messages": HELLO, "stream": True}
    call = line(world.gateway, "/v1/chat/completions", tenant.key, body)
    while not states:
        await asyncio.sleep(0.005)
    [entry] = await world.ledger(tenant)
    assert entry.state is EntryState.OPEN
    assert entry.amount > 0
    await call.task
    assert call.sent[-1] == {"type": "http.response.body", "body": b""}
    last = orjson.dumps(call.sent[-2]["body"].decode())
    assert b"[DONE]" in last
    [entry] = await world.ledger(tenant)
    assert entry.state is EntryState.SETTLED


async def test_used_keys_are_noted(world):
    tenant = await world.tenant()
    await world.version(tenant)
    await world.chat(tenant)
    await world.gateway.stop()
    async with world.store.read() as tx:
        [key] = await tx.keys.list(tenant.project)
    assert key.last_used_at is not None


async def test_the_lifespan_starts_and_stops_it(lite):
    messages = iter([{"type": "lifespan.startup"}, {"type": "lifespan.shutdown"}])
    sent = []

    async def receive():
        return next(messages)

    async def send(message):
        sent.append(message["type"])

    await Gateway(lite, pepper=b"x")({"type": "lifespan"}, receive, send)
    assert sent == ["lifespan.startup.complete", "lifespan.shutdown.complete"]


def test_engines_and_gateway_agree_on_names():
    for digest in ("sha256:" + "ab" * 32, "cd" * 32):
        assert engine_name(digest) == engines_name(digest)
    assert ENGINE_BASE == "base"
