"""The API over real services on a real store; base models, the engine and the doctor are fakes."""

from __future__ import annotations

from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import openai
import pytest

from graftwork.api.app import Edge, build
from graftwork.artifacts import Artifacts
from graftwork.control.bell import Bell
from graftwork.control.services.adapters import AdaptersService
from graftwork.control.services.billing import BillingService
from graftwork.control.services.dataset_tools import DatasetTools
from graftwork.control.services.exports import ExportsService, PushTokens
from graftwork.control.services.files import FilesService
from graftwork.control.services.jobs import JobsService
from graftwork.control.services.kept import KeptService
from graftwork.control.services.keys import KeysService
from graftwork.control.services.models import ModelsService
from graftwork.control.services.plans import PlansService
from graftwork.control.services.sweeps import SweepsService
from graftwork.core import ids
from graftwork.core.clock import SystemClock
from graftwork.core.errors import NotFound
from graftwork.core.nouns import (
    Checkpoint,
    Evaluation,
    Job,
    LedgerEntry,
    Organization,
    Project,
    Version,
    Weights,
)
from graftwork.core.specs import LoraSpec
from graftwork.core.states import EntryState, ExportState, Phase, PlacementState, Verdict
from graftwork.data import Renderer
from graftwork.gateway import GatewaySettings
from graftwork.gateway.resolve import engine_name
from graftwork.models import CatalogueEntry, Prices
from graftwork.models.entry import Shape
from graftwork.models.folder import seedling_folder
from graftwork.store import Store
from graftwork.testing.fake_engine import FakeEngine

PEPPER = b"pepper"
ROWS = b"".join(b'{"prompt": "row %d", "completion": "%d"}\n' % (n, n) for n in range(10))
"""The file of every job."""
BASE = "seedling"
BOOK = {"version": "p1", "models": {BASE: {"train": 100_000, "input": 1_000_000, "output": 2_000_000}}}
ADAPTER = {"adapter_config.json": b'{"r": 8}', "adapter_model.safetensors": b"weights" * 1000}
"""The files of every version."""
SHAPE = Shape(
    family="qwen3",
    hidden=64,
    layers=2,
    intermediate=128,
    heads=4,
    kv_heads=2,
    head_dim=16,
    vocab=100,
    context=512,
    tied=True,
)
ENTRY = CatalogueEntry(
    name=BASE,
    source="builtin",
    repository=BASE,
    revision="r1",
    shape=SHAPE,
    licence="MIT",
    lora_learning_rate=1e-3,
    rate_reason="",
    lora=LoraSpec(),
    prices=Prices(train=100_000, input=20_000, output=40_000),
)


class OneBase:
    """The base models of this server: one."""

    async def get(self, name: str) -> CatalogueEntry:
        if name != BASE:
            raise NotFound(f"No such model: {name!r}.", code="model_not_found", param="model")
        return ENTRY

    def list(self) -> tuple[CatalogueEntry, ...]:
        return (ENTRY,)

    async def pinned(self, name: str) -> CatalogueEntry:
        return await self.get(name)

    async def renderer(self, name: str) -> Renderer:
        return Renderer.load(seedling_folder())

    def engine(self, entry: Any) -> str:
        return "fake"


class Validator:
    """Stands for the data sets' service: remembers what it was asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[Any, ...]] = []

    async def base_of(self, project_id, model):
        return model

    async def validate(self, project_id, data, *, base, validation, max_length, method):
        assert method == "sft"
        self.asked.append((data.content, data.filename, base, validation, max_length))
        report = SimpleNamespace(to_json=lambda: {"ok": True, "rows": 1})
        return report, report if validation else None

    async def estimate(self, report, other, *, base, method):
        return {"steps": 1}


@dataclass
class Tenant:
    """A project and the text of a key to it."""

    project: str
    key: str
    key_id: str


@dataclass
class Platform:
    """What the API needs, put together by hand."""

    store: Store
    clock: Any
    pepper: bytes
    bases: Any
    artifacts: Artifacts
    files: FilesService
    jobs: JobsService
    sweeps: SweepsService
    adapters: AdaptersService
    exports: ExportsService
    models: ModelsService
    keys: KeysService
    billing: BillingService
    datasets: Validator
    dataset_tools: DatasetTools
    kept: KeptService
    plans: PlansService
    engine: FakeEngine

    async def doctor(self) -> list[dict[str, Any]]:
        return [{"name": "database", "state": "ok", "seen": "sqlite", "fix": ""}]


class World:
    """A platform with its edge, and short-hands to fill it."""

    def __init__(self, platform: Platform, edge: Edge) -> None:
        self.platform = platform
        self.edge = edge
        self.store = platform.store
        self.clock = platform.clock

    async def tenant(self, name: str = "acme", budget: int | None = None) -> Tenant:
        now = self.clock.now()
        organization = Organization(id=ids.new_id(ids.ORGANIZATION), name=name, created_at=now)
        project = Project(
            id=ids.new_id(ids.PROJECT),
            organization_id=organization.id,
            name=name,
            created_at=now,
            budget=budget,
        )
        async with self.store.begin() as tx:
            await tx.organizations.create(organization)
            await tx.projects.create(project)
        made = await self.platform.keys.create(project.id, name="first")
        await self.edge.gateway.refresh()
        return Tenant(project.id, made.text, made.key.id)

    def http(self, tenant: Tenant | None) -> httpx.AsyncClient:
        headers = {"authorization": f"Bearer {tenant.key}"} if tenant else {}
        return httpx.AsyncClient(
            transport=httpx.ASGITransport(self.edge), base_url="http://test", headers=headers
        )

    def sdk(self, tenant: Tenant) -> openai.AsyncOpenAI:
        return openai.AsyncOpenAI(
            api_key=tenant.key,
            base_url="http://test/v1",
            http_client=httpx.AsyncClient(transport=httpx.ASGITransport(self.edge)),
            max_retries=0,
        )

    async def call(self, tenant: Tenant | None, method: str, path: str, **options: Any) -> httpx.Response:
        async with self.http(tenant) as client:
            return await client.request(method, path, **options)

    async def upload(self, tenant: Tenant, content: bytes = ROWS) -> str:
        made = await self.platform.files.create(
            tenant.project, filename="rows.jsonl", purpose="fine-tune", content=content
        )
        return made.id

    async def job(self, tenant: Tenant, **fields: Any) -> str:
        file = await self.upload(tenant)
        body = {"model": BASE, "training_file": file, "suffix": "support"} | fields
        answer = await self.call(tenant, "POST", "/v1/fine_tuning/jobs", json=body)
        assert answer.status_code == 200, answer.text
        return answer.json()["id"]

    async def change(self, job_id: str, **changes: Any) -> None:
        """Do to a job what its reconciler does."""
        async with self.store.begin() as tx:
            [claim] = [c for c in await tx.jobs.claim("test", limit=100) if c.item.id == job_id]
            assert await tx.jobs.apply(claim, **changes)
            await tx.jobs.release(claim, 0.0)

    async def finish(self, tenant: Tenant, job_id: str, *, verdict: Verdict = Verdict.PASS) -> Version:
        """A job that ended well: weights, version, checkpoint, evaluation, alias, placement, money."""
        store, now, digest = self.store, self.clock.now(), ids.new_id("", 64)
        async with store.read() as tx:
            job = await tx.jobs.get(tenant.project, job_id)
        model = f"ft:{BASE}:acme:support:{job_id[-6:]}"
        version = await self._rows(tenant, job, digest, model, verdict)
        phases = list(Phase)
        result = {"version_id": version.id, "fine_tuned_model": model, "trained_tokens": 120}
        async with store.begin() as tx:
            [claim] = [c for c in await tx.jobs.claim("test", limit=100) if c.item.id == job_id]
            for phase in phases[1 : phases.index(Phase.DONE) + 1]:
                ended = {"finished_at": now, **result} if phase is Phase.DONE else {}
                assert await tx.jobs.apply(claim, move=phase, **ended)
                claim = claim.updated(phase=phase)
            await tx.jobs.release(claim, 0.0)
        await self.place(tenant, digest)
        await self.edge.gateway.refresh()
        return version

    async def export(self, tenant: Tenant, path: str = "a.gguf", content: bytes = b"GGUF") -> str:
        """A finished export of ``support@1`` with one file."""
        made = await self.platform.exports.create(tenant.project, "support@1", format="merged")
        file = {"sha256": await self.platform.artifacts.put(content), "bytes": len(content)}
        async with self.store.begin() as tx:
            [claim] = [c for c in await tx.exports.claim("test", limit=100) if c.item.id == made.id]
            assert await tx.exports.apply(claim, state=ExportState.SUCCEEDED, files={path: file})
            await tx.exports.release(claim, 0.0)
        return made.id

    async def _rows(self, tenant: Tenant, job: Job, digest: str, model: str, verdict: Verdict) -> Version:
        now = self.clock.now()
        files = {name: await self.platform.artifacts.put(data) for name, data in ADAPTER.items()}
        async with self.store.begin() as tx:
            line = await tx.adapters.ensure(tenant.project, "support", BASE, now)
            weights = Weights(
                digest=digest, project_id=tenant.project, base=BASE, files={}, probes=[], created_at=now
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
                    model=model,
                    manifest={"files": files, "receipt": {"seed": job.seed}},
                    verdict=verdict,
                    created_at=now,
                )
            )
            for step in (10, 20, 30):
                await tx.checkpoints.add(
                    Checkpoint(
                        id=ids.new_id(ids.CHECKPOINT),
                        job_id=job.id,
                        fence=1,
                        step=step,
                        created_at=now,
                        metrics={"train_loss": 1.0 / step, "full_valid_loss": 0.5},
                        weights=digest,
                    )
                )
            await tx.evaluations.create(
                Evaluation(
                    id=ids.new_id(ids.EVALUATION),
                    project_id=tenant.project,
                    job_id=job.id,
                    weights=digest,
                    verdict=verdict,
                    report={
                        "gate": {
                            "name": "default",
                            "table": [{"measure": "loss", "base": 2.0, "live": None, "new": 1.0}],
                            "reasons": ["better"],
                        },
                        "samples": [],
                    },
                    created_at=now,
                )
            )
            await tx.ledger.record(
                LedgerEntry(
                    key=f"train-{job.id}",
                    project_id=tenant.project,
                    kind="training_tokens",
                    state=EntryState.SETTLED,
                    amount=12,
                    quantity={"trained_tokens": 120},
                    price_version="p1",
                    refs={"job": job.id, "model": BASE, "base": BASE},
                    created_at=now,
                    settled_at=now,
                )
            )
            if verdict is Verdict.PASS:
                at = await tx.aliases.get(line.id, "production")
                await tx.aliases.move(
                    line.id,
                    "production",
                    version.id,
                    expected_generation=at.generation if at else 0,
                    actor="gate",
                    reason="passed",
                    at=now,
                )
        return version

    async def place(self, tenant: Tenant, digest: str) -> None:
        """Do what the endpoint and placement reconcilers do."""
        info = await self.platform.engine.ensure(Path("base"), BASE)
        self.platform.engine.backend.adapters[engine_name(digest)] = Path("adapter")
        async with self.store.begin() as tx:
            endpoint = await tx.endpoints.ensure(BASE, "fake", 1.0)
            live = {"url": info.url, "token": info.token, "generation": info.generation}
            await tx.endpoints.update(endpoint.id, state="ready", **live)
            await tx.placements.ensure(endpoint.id, tenant.project, digest, 1.0)
            for claim in await tx.placements.claim("test", limit=100):
                state = {"state": PlacementState.READY, "generation": info.generation}
                await tx.placements.apply(claim, **(state if claim.item.weights == digest else {}))
                await tx.placements.release(claim, 0.0)


def assemble(store: Store, folder: Path, clock: Any) -> Platform:
    """A platform of real services."""
    artifacts, bell = Artifacts(folder), Bell()
    bases: Any = OneBase()
    files = FilesService(store, artifacts, clock)
    jobs = JobsService(store, bases, clock, bell)
    return Platform(
        store=store,
        clock=clock,
        pepper=PEPPER,
        bases=bases,
        artifacts=artifacts,
        files=files,
        jobs=jobs,
        sweeps=SweepsService(store, bases, clock, bell),
        adapters=AdaptersService(store, artifacts, clock, bell),
        exports=ExportsService(store, artifacts, clock, bell, PushTokens()),
        models=ModelsService(store, bases, clock, bell),
        keys=KeysService(store, clock, bell, PEPPER),
        billing=BillingService(store),
        datasets=Validator(),
        dataset_tools=DatasetTools(files, artifacts, bases),
        kept=KeptService(store, files),
        plans=PlansService(store, artifacts, bases, jobs),
        engine=FakeEngine(),
    )


@asynccontextmanager
async def a_world(store: Store, folder: Path, **changes: Any):
    platform = replace(assemble(store, folder, SystemClock()), **changes)
    async with store.begin() as tx:
        await tx.prices.put("p1", BOOK)
    edge = build(platform, GatewaySettings(poll=0.05, patience=0.2))
    await edge.gateway.start()
    try:
        yield World(platform, edge)
    finally:
        await edge.gateway.stop()
        await platform.engine.destroy()


@pytest.fixture
async def world(sqlite_url, tmp_path):
    store = await Store.open(sqlite_url)
    async with a_world(store, tmp_path / "artifacts") as made:
        yield made
    await store.close()
