"""A world for the gateway: a store with tenants, a fake engine on loopback, and the gateway between."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import orjson
import pytest

from graftwork.core import ids
from graftwork.core.keys import key_digest, new_key
from graftwork.core.nouns import (
    ApiKey,
    Checkpoint,
    Endpoint,
    Job,
    LedgerEntry,
    Organization,
    Project,
    Version,
    Weights,
)
from graftwork.core.states import Phase, PlacementState, Verdict, Want
from graftwork.gateway import Gateway, GatewaySettings
from graftwork.gateway.resolve import engine_name
from graftwork.store import Store
from graftwork.testing.fake_engine import FakeEngine

PEPPER = b"pepper"
BASE = "seedling"
BOOK = {"version": "p1", "models": {BASE: {"train": 100_000, "input": 1_000_000, "output": 2_000_000}}}
HELLO = [{"role": "user", "content": "hello"}]


@dataclass
class Tenant:
    """A project and the text of a key to it."""

    project: str
    key: str
    key_id: str


@dataclass
class Answer:
    """What came back over ASGI."""

    status: int
    headers: dict[str, str]
    body: bytes

    def json(self):
        return orjson.loads(self.body)

    def events(self):
        lines = [e.removeprefix(b"data: ") for e in self.body.split(b"\n\n") if e]
        return [orjson.loads(line) for line in lines if line != b"[DONE]"]


class World:
    """Everything a request passes, with short-hands to set it up and to look at it."""

    def __init__(self, store: Store, engine: FakeEngine, gateway: Gateway) -> None:
        self.store = store
        self.engine = engine
        self.gateway = gateway
        self.endpoint: Endpoint | None = None

    async def tenant(self, name: str = "acme", *, budget: int | None = None, expires_at=None) -> Tenant:
        now = 1000.0
        organization = Organization(id=ids.new_id(ids.ORGANIZATION), name=name, created_at=now)
        project = Project(
            id=ids.new_id(ids.PROJECT),
            organization_id=organization.id,
            name=name,
            created_at=now,
            budget=budget,
        )
        parts = new_key()
        key = ApiKey(
            id=ids.new_id(ids.KEY),
            project_id=project.id,
            name="test",
            lookup=parts.lookup,
            digest=key_digest(parts.secret, PEPPER),
            created_at=now,
            expires_at=expires_at,
        )
        async with self.store.begin() as tx:
            await tx.organizations.create(organization)
            await tx.projects.create(project)
            await tx.keys.create(key)
        return Tenant(project.id, parts.text, key.id)

    async def serve_base(self, *, state: str = "ready") -> None:
        info = await self.engine.ensure(Path("base"), BASE)
        async with self.store.begin() as tx:
            self.endpoint = await tx.endpoints.ensure(BASE, "fake", 1000.0)
            await tx.endpoints.update(
                self.endpoint.id, state=state, url=info.url, token=info.token, generation=info.generation
            )

    async def version(
        self,
        tenant: Tenant,
        adapter: str = "support",
        *,
        alias: str | None = "production",
        ready: bool = True,
    ) -> Version:
        digest = ids.new_id("", 64)
        job = await self._job(tenant, adapter)
        async with self.store.begin() as tx:
            line = await tx.adapters.ensure(tenant.project, adapter, BASE, 1000.0)
            weights = Weights(
                digest=digest, project_id=tenant.project, base=BASE, files={}, probes=[], created_at=1000.0
            )
            await tx.weights.create(weights)
            version = await tx.versions.create(
                Version(
                    id=ids.new_id("", 64),
                    project_id=tenant.project,
                    adapter_id=line.id,
                    number=0,
                    job_id=job.id,
                    weights=digest,
                    model=job.fine_tuned_model or "",
                    manifest={},
                    verdict=Verdict.PASS,
                    created_at=1000.0,
                )
            )
            if alias:
                now = await tx.aliases.get(line.id, alias)
                await tx.aliases.move(
                    line.id,
                    alias,
                    version.id,
                    expected_generation=now.generation if now else 0,
                    actor="test",
                    reason="",
                    at=1000.0,
                )
            await tx.checkpoints.add(
                Checkpoint(
                    id=ids.new_id(ids.CHECKPOINT),
                    job_id=job.id,
                    fence=1,
                    step=10,
                    created_at=1000.0,
                    metrics={},
                    weights=digest,
                )
            )
        if ready:
            await self.place(tenant, digest)
        return version

    async def _job(self, tenant: Tenant, adapter: str) -> Job:
        tail = ids.new_id("", 8)
        job = Job(
            id=ids.JOB + tail,
            project_id=tenant.project,
            phase=Phase.DONE,
            want=Want.RUN,
            base=BASE,
            suffix=adapter,
            seed=1,
            training_file="file-x",
            validation_file=None,
            asked={},
            metadata=None,
            integrations=None,
            created_at=1000.0,
            fine_tuned_model=f"ft:{BASE}:acme:{adapter}:{tail}",
        )
        async with self.store.begin() as tx:
            await tx.jobs.create(job)
        return job

    async def place(self, tenant: Tenant, digest: str, **changes) -> None:
        """Do what the placement reconciler does: load, then write ready (or what ``changes`` say)."""
        assert self.endpoint is not None
        self.engine.backend.adapters[engine_name(digest)] = Path("adapter")
        fresh = {"state": PlacementState.READY, "generation": 1} | changes
        async with self.store.begin() as tx:
            await tx.placements.ensure(self.endpoint.id, tenant.project, digest, 1000.0)
            for claim in await tx.placements.claim("test", limit=100):
                changed = fresh if claim.item.weights == digest else {}
                await tx.placements.apply(claim, **changed)
                await tx.placements.release(claim, 0.0)

    async def ledger(self, tenant: Tenant) -> list[LedgerEntry]:
        async with self.store.read() as tx:
            return (await tx.ledger.list(tenant.project, limit=1000)).items

    async def chat(self, tenant: Tenant | None, model: str = "support", *, messages=None, **fields) -> Answer:
        body = {"model": model, "messages": messages or HELLO} | fields
        return await self.post("/v1/chat/completions", tenant, body)

    async def post(self, path: str, tenant: Tenant | None, body, *, method: str = "POST") -> Answer:
        headers = {"authorization": f"Bearer {tenant.key}"} if tenant else {}
        data = body if isinstance(body, bytes) else orjson.dumps(body)
        transport = httpx.ASGITransport(self.gateway)
        async with httpx.AsyncClient(transport=transport, base_url="http://gateway") as client:
            answer = await client.request(method, path, content=data, headers=headers)
        return Answer(answer.status_code, dict(answer.headers), answer.content)


@asynccontextmanager
async def a_world(store: Store, learn=None, **settings):
    engine = FakeEngine()
    async with store.begin() as tx:
        await tx.prices.put("p1", BOOK)
    chosen = GatewaySettings(**{"poll": 0.02, "patience": 2.0} | settings)
    gateway = Gateway(store, pepper=PEPPER, settings=chosen, learn=learn)
    world = World(store, engine, gateway)
    await world.serve_base()
    await gateway.start()
    try:
        yield world
    finally:
        await gateway.stop()
        await engine.destroy()


@pytest.fixture
async def lite(sqlite_url):
    """A store on SQLite alone, for tests in which the database is not the question."""
    opened = await Store.open(sqlite_url)
    yield opened
    await opened.close()


@pytest.fixture
async def world(lite):
    async with a_world(lite) as made:
        yield made


@pytest.fixture
async def both(store):
    """As ``world``, once on SQLite and once on PostgreSQL."""
    async with a_world(store) as made:
        yield made


@pytest.fixture
def make_world(lite):
    """A world with other settings."""
    return lambda **settings: a_world(lite, **settings)


class Line:
    """A hand-held ASGI connection: read events as they come, hang up at will."""

    def __init__(self, app, path: str, key: str, body: dict) -> None:
        self.sent: list[dict] = []
        self.news = asyncio.Event()
        self._gone = asyncio.Event()
        self._body: bytes | None = orjson.dumps(body)
        scope = {
            "type": "http",
            "method": "POST",
            "path": path,
            "headers": [(b"authorization", b"Bearer " + key.encode())],
        }
        self.task = asyncio.create_task(app(scope, self._receive, self._send))

    async def _receive(self):
        if self._body is not None:
            body, self._body = self._body, None
            return {"type": "http.request", "body": body, "more_body": False}
        await self._gone.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message) -> None:
        self.sent.append(message)
        self.news.set()

    async def until(self, count: int) -> None:
        """Return once the application has sent that many messages."""
        while len(self.sent) < count:
            self.news.clear()
            await asyncio.wait_for(self.news.wait(), 5)

    async def hang_up(self) -> None:
        self._gone.set()
        await asyncio.wait_for(self.task, 5)


@pytest.fixture
def line():
    return Line
