"""Every route × {no key, revoked key, another tenant's key, the owner's key}. A route without a row fails."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, fields
from typing import Any

import pytest
from fastapi.routing import iter_route_contexts

from graftwork.control.services.requests import JobRequest
from graftwork.control.services.sweeps import SweepRequest
from graftwork.core import ids
from graftwork.core.nouns import KeptRequest
from graftwork.gateway.requests import ROUTES
from graftwork.store.kept import packed

PUBLIC = {("GET", "/openapi.json"), ("HEAD", "/openapi.json"), ("GET", "/api/health")}
PLAN = {"model": "seedling"}
CHAT = {"messages": [{"role": "user", "content": "hi"}]}


@dataclass
class Owned:
    """What the owner has; filled into paths and bodies, and never to be seen by another tenant."""

    file: str
    spare: str
    """A file that no job uses."""
    running: str
    paused: str
    done: str
    model: str
    old: str
    """A version's model that no alias points at."""
    key: str
    kept: str
    """A request that was kept."""
    export: str
    """A finished export with one file, ``a.gguf``."""
    sweep: str
    names: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        ours = (f.name for f in fields(self) if f.name != "names")
        self.names = {name: str(vars(self)[name]) for name in ours}


@dataclass(frozen=True)
class Row:
    """How to call a route so that its owner succeeds, and what another tenant gets (200 or 404)."""

    other: int
    url: str | None = None
    """The path with ``{names}`` of ``Owned``; the route's own path if None."""
    options: Callable[[Owned], dict[str, Any]] = lambda owned: {}


def body(make: Callable[[Owned], Any]) -> Callable[[Owned], dict[str, Any]]:
    return lambda owned: {"json": make(owned)}


UPLOAD = {"files": {"file": ("a.jsonl", b"{}")}, "data": {"purpose": "fine-tune"}}
JOBS = "/v1/fine_tuning/jobs"
ROWS: dict[tuple[str, str], Row] = {
    ("POST", "/v1/files"): Row(200, options=lambda owned: UPLOAD),
    ("GET", "/v1/files"): Row(200),
    ("GET", "/v1/files/{file_id}"): Row(404, "/v1/files/{file}"),
    ("GET", "/v1/files/{file_id}/content"): Row(404, "/v1/files/{file}/content"),
    ("DELETE", "/v1/files/{file_id}"): Row(404, "/v1/files/{spare}"),
    ("POST", JOBS): Row(404, options=body(lambda o: {"model": "seedling", "training_file": o.file})),
    ("GET", JOBS): Row(200),
    ("GET", JOBS + "/{job_id}"): Row(404, JOBS + "/{done}"),
    ("POST", JOBS + "/{job_id}/cancel"): Row(404, JOBS + "/{running}/cancel"),
    ("POST", JOBS + "/{job_id}/pause"): Row(404, JOBS + "/{running}/pause"),
    ("POST", JOBS + "/{job_id}/resume"): Row(404, JOBS + "/{paused}/resume"),
    ("GET", JOBS + "/{job_id}/events"): Row(404, JOBS + "/{done}/events"),
    ("GET", JOBS + "/{job_id}/checkpoints"): Row(404, JOBS + "/{done}/checkpoints"),
    ("GET", "/v1/models"): Row(200),
    ("GET", "/v1/models/{name:path}"): Row(404, "/v1/models/{model}"),
    ("DELETE", "/v1/models/{name:path}"): Row(404, "/v1/models/{old}"),
    ("POST", "/v1/chat/completions"): Row(404, options=body(lambda o: CHAT | {"model": o.model})),
    ("POST", "/v1/completions"): Row(404, options=body(lambda o: {"prompt": "hi", "model": "support@1"})),
    ("GET", "/api/adapters"): Row(200),
    ("GET", "/api/adapters/{name}"): Row(404, "/api/adapters/support"),
    ("GET", "/api/adapters/{name}/versions/{number}"): Row(404, "/api/adapters/support/versions/1"),
    ("GET", "/api/adapters/{name}/versions/{number}/download"): Row(
        404, "/api/adapters/support/versions/1/download"
    ),
    ("DELETE", "/api/adapters/{name}/versions/{number}"): Row(404, "/api/adapters/support/versions/1"),
    ("POST", "/api/adapters/{name}/versions/{number}/exports"): Row(
        404, "/api/adapters/support/versions/1/exports", body(lambda owned: {"format": "gguf"})
    ),
    ("POST", "/api/adapters/{name}/versions/{number}/push"): Row(
        404,
        "/api/adapters/support/versions/1/push",
        body(lambda owned: {"repository": "acme/support", "token": "hf_x"}),
    ),
    ("GET", "/api/exports"): Row(200),
    ("GET", "/api/exports/{export_id}"): Row(404, "/api/exports/{export}"),
    ("GET", "/api/exports/{export_id}/files/{path:path}"): Row(404, "/api/exports/{export}/files/a.gguf"),
    ("POST", "/api/adapters/{name}/promote"): Row(
        404, "/api/adapters/support/promote", body(lambda owned: {"version": 1})
    ),
    ("POST", "/api/adapters/{name}/rollback"): Row(
        404, "/api/adapters/support/rollback", body(lambda owned: {})
    ),
    ("GET", "/api/keys"): Row(200),
    ("POST", "/api/keys"): Row(200, options=body(lambda owned: {"name": "another"})),
    ("DELETE", "/api/keys/{key_id}"): Row(404, "/api/keys/{key}"),
    ("GET", "/api/bill"): Row(200),
    ("GET", "/api/usage"): Row(200),
    ("POST", "/api/datasets/check"): Row(200, options=lambda owned: {"content": b'{"messages": []}'}),
    ("POST", "/api/jobs/plan"): Row(404, options=body(lambda o: PLAN | {"training_file": o.file})),
    ("POST", "/api/datasets/stats"): Row(404, "/api/datasets/stats?file={file}"),
    ("POST", "/api/datasets/split"): Row(404, options=body(lambda o: {"file": o.file})),
    ("POST", "/api/datasets/dedup"): Row(404, options=body(lambda o: {"file": o.file})),
    ("POST", "/api/datasets/mix"): Row(404, options=body(lambda o: {"sources": [{"file": o.file}]})),
    ("POST", "/api/datasets/diff"): Row(404, options=body(lambda o: {"before": o.file, "after": o.file})),
    ("GET", "/api/kept"): Row(200),
    ("PUT", "/api/kept"): Row(200, options=body(lambda o: {"mode": "all"})),
    ("DELETE", "/api/kept"): Row(200),
    ("POST", "/api/datasets/from-logs"): Row(200, options=body(lambda o: {})),
    ("GET", "/v1/chat/completions"): Row(200),
    ("GET", "/v1/chat/completions/{completion_id}"): Row(404, "/v1/chat/completions/{kept}"),
    ("GET", "/v1/chat/completions/{completion_id}/messages"): Row(
        404, "/v1/chat/completions/{kept}/messages"
    ),
    ("POST", "/v1/chat/completions/{completion_id}"): Row(
        404, "/v1/chat/completions/{kept}", body(lambda o: {"metadata": {"a": "b"}})
    ),
    ("DELETE", "/v1/chat/completions/{completion_id}"): Row(404, "/v1/chat/completions/{kept}"),
    ("POST", "/api/sweeps"): Row(404, options=body(lambda o: PLAN | {"training_file": o.file})),
    ("GET", "/api/sweeps"): Row(200),
    ("GET", "/api/sweeps/{sweep_id}"): Row(404, "/api/sweeps/{sweep}"),
    ("POST", "/api/sweeps/{sweep_id}/cancel"): Row(404, "/api/sweeps/{sweep}/cancel"),
    ("GET", "/api/jobs/{job_id}/watch"): Row(404, "/api/jobs/{done}/watch"),
    ("GET", "/api/jobs/{job_id}/logs"): Row(404, "/api/jobs/{done}/logs"),
    ("GET", "/api/doctor"): Row(200),
    ("GET", "/api/models"): Row(200),
    ("GET", "/api/models/{name:path}"): Row(200, "/api/models/seedling"),
}


async def owned(world, tenant) -> Owned:
    first = await world.job(tenant)
    old = await world.finish(tenant, first)
    done = await world.job(tenant)
    version = await world.finish(tenant, done)
    paused = await world.job(tenant)
    await world.platform.jobs.pause(tenant.project, paused)
    running = await world.job(tenant)
    file = (await world.platform.jobs.get(tenant.project, done)).job.training_file
    key = await world.platform.keys.create(tenant.project, name="spare")
    spare = await world.upload(tenant)
    kept = a_request(tenant.project)
    async with world.store.begin() as tx:
        await tx.kept.add([kept])
    export = await world.export(tenant)
    job = JobRequest(model="seedling", training_file=file)
    sweep = (await world.platform.sweeps.create(tenant.project, SweepRequest(job=job))).sweep
    models = (version.model, old.model)
    return Owned(file, spare, running, paused, done, *models, key.key.id, kept.id, export, sweep.id)


def a_request(project, **fields) -> KeptRequest:
    messages = [{"role": "user", "content": "hi"}]
    choice = {"index": 0, "message": {"role": "assistant", "content": "there"}, "finish_reason": "stop"}
    body = packed({"request": {"messages": messages}, "answer": {"choices": [choice]}})
    given = {"id": ids.new_id("chatcmpl-"), "project_id": project, "model": "support", "base": "seedling"}
    given |= {"adapter": "support", "version": "support@1", "name": "ft:x", "metadata": None}
    given |= {"bytes": len(body), "body": body, "created_at": 1000.0, "expires_at": 1e12}
    return KeptRequest(**{**given, **fields})


def routes(world) -> set[tuple[str, str]]:
    found = {("POST", path) for path in ROUTES}
    for route in iter_route_contexts(world.edge.api.routes):
        found |= {(method, route.path or "") for method in route.methods or ()}
    return found


async def test_every_route_has_a_row(world):
    assert routes(world) == ROWS.keys() | PUBLIC


@pytest.mark.parametrize(("method", "path"), ROWS, ids=[f"{m} {p}" for m, p in ROWS])
async def test_a_route_answers_its_owner_and_nobody_else(world, method, path):
    row = ROWS[method, path]
    owner, other, gone = await world.tenant("acme"), await world.tenant("evil"), await world.tenant("gone")
    mine = await owned(world, owner)
    await world.platform.keys.revoke(gone.project, gone.key_id)
    await world.edge.gateway.refresh()
    url = (row.url or path).format(**mine.names)

    async def call(tenant):
        return await world.call(tenant, method, url, **row.options(mine))

    for stranger in (None, gone):
        refused = await call(stranger)
        assert refused.status_code == 401
        assert refused.json()["error"]["type"] == "authentication_error"
    answer = await call(other)
    assert answer.status_code == row.other, answer.text
    sent = str(row.options(mine)) + url
    for name in [*mine.names.values(), owner.project, owner.key_id]:
        assert name in sent or name not in answer.text
    own = await call(owner)
    assert own.status_code == 200, own.text


@pytest.mark.parametrize(("method", "path"), sorted(PUBLIC))
async def test_public_routes_say_nothing_of_tenants(world, method, path):
    tenant = await world.tenant()
    mine = await owned(world, tenant)
    answer = await world.call(None, method, path)
    assert answer.status_code == 200
    assert not any(name in answer.text for name in mine.names.values())
