"""A whole control plane on a fake clock: simulated machines, scripted trainers, a fake engine, a real store.

Nothing waits on real time: ``turn`` lets every reconciler work once and every trainer take a step, and moves
the clock on by a second.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import tempfile
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save

from graftwork.artifacts import Artifacts
from graftwork.billing import ModelPrice, ensure_prices, training_key
from graftwork.compute.port import LaunchSpec, LogPage, MachineInfo, Need, Offer
from graftwork.control.bases import Bases
from graftwork.control.bell import Bell
from graftwork.control.reconcilers.base import Pace
from graftwork.control.reconcilers.endpoints import EndpointReconciler, Engines
from graftwork.control.reconcilers.jobs.context import Context, Limits, Pool
from graftwork.control.reconcilers.jobs.reconciler import JobReconciler
from graftwork.control.reconcilers.jobs.step import Step
from graftwork.control.reconcilers.placements import PlacementReconciler
from graftwork.control.reconcilers.sweeper import Sweeper
from graftwork.control.reconcilers.sweeps import SweepReconciler
from graftwork.control.services.all import build_services
from graftwork.control.services.exports import PushTokens
from graftwork.control.services.requests import JobRequest
from graftwork.control.views import JobView
from graftwork.core.nouns import Endpoint, Job, Project, StoredFile
from graftwork.core.states import TERMINAL, EntryState, MachineState, Outcome, Phase, Want
from graftwork.models import Catalogue
from graftwork.runs.assignments import read_assignments
from graftwork.runs.documents import Heartbeat, Message, Metrics, Probe, Result, RunError
from graftwork.runs.reader import RunReader
from graftwork.runs.transport import open_transport
from graftwork.runs.writer import RunWriter
from graftwork.serving.client import EngineClient
from graftwork.serving.port import BASE, engine_name
from graftwork.store import Claim, Store
from graftwork.testing.fake_clock import FakeClock
from graftwork.testing.fake_engine import FakeEngine
from graftwork.testing.simulated_cloud import SimulatedCloud, SimulatedMachine
from graftwork.testing.simulated_provider import SimulatedProvider

STEPS = 4
TOKENS = 100
"""Trained tokens of one scripted step."""
PRICE = 36_000
"""Micro-dollars an hour of a machine: ten a second."""


def rows(count: int = 30, start: int = 0) -> bytes:
    """Chat rows whose answers nobody can guess."""
    return b"".join(
        json.dumps(
            {
                "messages": [
                    {"role": "user", "content": f"What is the code of item {n}?"},
                    {"role": "assistant", "content": f"code{n * 7}"},
                ]
            }
        ).encode()
        + b"\n"
        for n in range(start, start + count)
    )


def answer(model: str, messages: list[dict[str, Any]]) -> str:
    """Adapters know the codes, the base does not."""
    item = "".join(c for c in messages[-1]["content"] if c.isdigit())
    return f"code{int(item) * 7}" if model != BASE and item else "I do not know."


def score(model: str, tokens: Sequence[int]) -> list[float]:
    """Log-probabilities by token; adapters, all alike, are four times as sure as the base."""
    digests = [hashlib.sha256(f"{token}".encode()).digest() for token in tokens]
    return [(-4.0 if model == BASE else -1.0) * (1 + digest[0]) / 256 for digest in digests]


def adapter_files(seed: int = 0, rank: int = 4) -> dict[str, bytes]:
    """A small but well-formed LoRA of the seedling."""
    rng = np.random.default_rng(seed)
    name = "base_model.model.model.layers.0.self_attn.q_proj"
    tensors = {
        f"{name}.lora_A.weight": rng.standard_normal((rank, 256)).astype(np.float32),
        f"{name}.lora_B.weight": rng.standard_normal((256, rank)).astype(np.float32),
    }
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": "seedling",
        "r": rank,
        "lora_alpha": 8,
        "lora_dropout": 0.0,
        "target_modules": ["q_proj"],
        "bias": "none",
        "use_rslora": False,
        "inference_mode": True,
    }
    return {"adapter_config.json": json.dumps(config).encode(), "adapter_model.safetensors": save(tensors)}


def probes(files: dict[str, bytes]) -> list[Probe]:
    """What a trainer that computes as the fake engine does says of these files."""
    digest = Artifacts.digest_of({name: hashlib.sha256(data).hexdigest() for name, data in files.items()})
    tokens = [11, 12, 13, 14, 15, 16]
    return [
        Probe(
            tokens=tokens,
            start=2,
            logprobs=score(engine_name(digest), tokens)[2:],
            base_logprobs=score(BASE, tokens)[2:],
        )
    ]


@dataclass
class Script:
    """How the trainers of a job behave; fields may be changed at any time."""

    steps: int = STEPS
    die_at: dict[int, int] = field(default_factory=dict)
    """By fence: the step before which the machine dies without a word."""
    error: RunError | None = None
    """How training fails after its first step."""
    seed: int = 0
    """Of the adapter's weights."""
    worse: float = 1.0
    """Factor of its held-out losses."""
    silent: bool = False
    """Whether trainers do nothing at all."""
    probes: Callable[[dict[str, bytes]], list[Probe]] = probes


class ScriptedTrainer:
    """The process on one simulated machine: writes a run folder as a trainer does, one step a call."""

    def __init__(self, uri: str, script: Script, clock: FakeClock) -> None:
        place, _, fence = uri.partition("#")
        self.script, self.clock, self.fence = script, clock, int(fence)
        self.reader = RunReader(open_transport(place))
        self.writer = RunWriter(open_transport(place), self.fence, clock=clock.now)
        saved = self.reader.checkpoints(self.fence)
        self.step = saved[-1][1].step if saved else 0
        self.begun = False

    def turn(self) -> int | None:
        """One step; the exit code once it is over."""
        control, script = self.reader.control(), self.script
        assert control is not None, "a machine runs without control.json"
        if control.fence != self.fence:
            return 0
        if script.silent:
            return None
        if not self.begun:
            self.begun = True
            self.beat("loading")
            return None
        if control.want is Want.CANCEL:
            return self.end(Outcome.CANCELLED)
        if control.want is Want.PAUSE:
            return self.pause("pause")
        if self.step + 1 == script.die_at.get(self.fence):
            self.writer.flush()
            return 137
        self.take_step()
        if script.error is not None:
            return self.end(Outcome.FAILED, error=script.error)
        return self.conclude() if self.step >= script.steps else None

    def take_step(self) -> None:
        """Train a step; every second one is evaluated and saved."""
        self.step += 1
        even = self.step % 2 == 0
        self.writer.emit(
            Metrics(
                at=self.clock.now(),
                step=self.step,
                epoch=self.step / self.script.steps,
                loss=2.0 / self.step,
                lr=1e-3,
                grad_norm=1.0,
                tokens=self.step * TOKENS,
                tokens_per_s=50.0,
                memory_mb=100.0,
                train_accuracy=0.5,
                valid_loss=2.5 * self.script.worse / self.step if even else None,
                valid_accuracy=0.4 if even else None,
                full_valid_loss=2.5 / self.step if even else None,
            )
        )
        self.writer.flush()
        if even:
            self.checkpoint()
        self.beat("training")

    def checkpoint(self) -> None:
        files = adapter_files(self.script.seed + 1000 + self.step)
        with _folder({**files, "state.json": b"{}"}) as folder:
            self.writer.checkpoint(
                self.step,
                folder,
                at=self.clock.now(),
                metrics={"train_loss": 2.0 / self.step, "valid_loss": 2.5 / self.step},
                tokens=self.step * TOKENS,
                probes=self.script.probes(files),
            )

    def beat(self, phase: Any) -> None:
        self.writer.heartbeat(
            Heartbeat(
                step=self.step,
                total_steps=self.script.steps,
                at=self.clock.now(),
                phase=phase,
                tokens=self.step * TOKENS,
                eta_s=float(self.script.steps - self.step),
            )
        )

    def pause(self, reason: str) -> int:
        """Save, and write a paused result."""
        if self.step:
            self.checkpoint()
        return self.end(Outcome.PAUSED, reason=reason)

    def conclude(self) -> int:
        """Hand out the adapter."""
        files = adapter_files(self.script.seed)
        with _folder(files) as folder:
            adapter = self.writer.adapter(folder)
        return self.end(Outcome.SUCCEEDED, adapter=adapter, probes=self.script.probes(files))

    def end(self, outcome: Outcome, **more: Any) -> int:
        """Write the result, last."""
        self.writer.emit(Message(at=self.clock.now(), message=f"The trainer ends: {outcome}."))
        self.writer.result(
            Result(
                outcome=outcome,
                step=self.step,
                total_steps=self.script.steps,
                tokens=self.step * TOKENS,
                seconds=float(self.step),
                best_step=self.step or None,
                train_loss=0.5,
                valid_loss=0.6,
                base_valid_loss=2.0,
                valid_tokens=10,
                **more,
            )
        )
        return 0


class ScriptedCompany:
    """The process on one simulated machine: one run, or those of its assignment list."""

    def __init__(self, machine: SimulatedMachine, scripts: Callable[[str], Script], clock: FakeClock) -> None:
        self.machine, self.scripts, self.clock = machine, scripts, clock
        self.uri = machine.command[-1]
        self.listed = machine.command[-2] == "--assignments"
        self.taken: dict[str, ScriptedTrainer] = {}
        self.there: dict[str, ScriptedTrainer] = {}
        self.most = 0
        """Runs that were trained together at a time."""
        self.busy = clock.now()
        if not self.listed:
            self._take(self.uri)

    def _take(self, uri: str) -> None:
        if uri not in self.taken:
            job = uri.rpartition("#")[0].rpartition("/")[2]
            self.taken[uri] = self.there[uri] = ScriptedTrainer(uri, self.scripts(job), self.clock)

    def pause(self, reason: str) -> int:
        """Everybody saves."""
        for trainer in self.there.values():
            trainer.pause(reason)
        return 0

    def turn(self) -> int | None:
        """One step of every run; the exit code once the process ends."""
        held = read_assignments(self.uri) if self.listed else None
        for run in held.runs if held else ():
            self._take(f"{run.uri}#{run.fence}")
        self.most = max(self.most, len(self.there))
        for uri, trainer in list(self.there.items()):
            code = trainer.turn()
            if code == 137:
                return 137
            if code is not None:
                del self.there[uri]
        if self.there:
            self.busy = self.clock.now()
            return None
        idle = held is not None and not held.closed and self.clock.now() - self.busy < held.idle_s
        return None if idle else 0


class _folder:
    def __init__(self, files: dict[str, bytes]) -> None:
        self._files = files

    def __enter__(self) -> Path:
        self._made = tempfile.TemporaryDirectory()
        folder = Path(self._made.name)
        for name, data in self._files.items():
            (folder / name).write_bytes(data)
        return folder

    def __exit__(self, *_: object) -> None:
        self._made.cleanup()


class Crash(BaseException):
    """The control plane is killed: no handler of ours may catch this."""


class Fuse:
    """Counts the points that a control plane passes, and kills it at one of them."""

    def __init__(self, at: int | None = None) -> None:
        self.at = at
        self.passed: list[str] = []
        self.blown = False

    def burn(self, where: str) -> None:
        """Pass one point."""
        if self.blown:
            raise Crash(where)
        self.passed.append(where)
        if self.at is not None and len(self.passed) > self.at:
            self.blown = True
            raise Crash(where)


class MortalJobs(JobReconciler):
    """The job reconciler of a process that can be killed between any two of its steps."""

    fuse = Fuse()

    async def act(self, job: Job) -> Step:
        self.fuse.burn(f"{job.phase}: before act")
        step = await super().act(job)
        self.fuse.burn(f"{job.phase}: acted")
        return step

    async def apply(self, claim: Claim[Job], step: Step) -> Claim[Job]:
        applied = await super().apply(claim, step)
        self.fuse.burn(f"{claim.item.phase}: applied")
        return applied

    async def _release(self, claim: Claim[Job], seconds: float) -> None:
        if not self.fuse.blown:  # the dead release nothing
            await super()._release(claim, seconds)


class MortalProvider:
    """A provider whose caller can be killed right before and right after each deed."""

    def __init__(self, inner: SimulatedProvider, fuse: Fuse) -> None:
        self.inner, self.fuse, self.name = inner, fuse, inner.name

    async def offers(self, need: Need) -> list[Offer]:
        return await self.inner.offers(need)

    async def launch(self, name: str, spec: LaunchSpec, offer: Offer) -> MachineInfo:
        return await self._deed("launch", self.inner.launch(name, spec, offer))

    async def find(self, prefix: str) -> list[MachineInfo]:
        return await self.inner.find(prefix)

    async def describe(self, name: str) -> MachineInfo:
        return await self.inner.describe(name)

    async def terminate(self, name: str, *, machine_id: str | None = None) -> None:
        await self._deed("terminate", self.inner.terminate(name, machine_id=machine_id))

    async def logs(self, name: str, cursor: str | None = None) -> LogPage:
        return await self.inner.logs(name, cursor)

    async def set_deadline(self, name: str, deadline: float) -> None:
        await self.inner.set_deadline(name, deadline)

    async def _deed(self, what: str, deed: Awaitable[Any]) -> Any:
        done = await deed
        self.fuse.burn(f"{what} done")
        return done


class House:
    """The control plane. Make it with ``House.build``; close it at the end."""

    def __init__(self, store: Store, clock: FakeClock, root: Path) -> None:
        self.store, self.clock, self.root = store, clock, root
        self.bell, self.script = Bell(), Script()
        self.cloud = SimulatedCloud(clock, catalogue=[_offer()])
        self.engine = FakeEngine(say=answer, score=score)
        self.engines = Engines(lambda endpoint: self.engine)
        self.artifacts = Artifacts(root / "artifacts")
        self.bases = Bases(Catalogue(), root / "models")
        self.limits = Limits(company=1)
        self.slots: int | None = 1
        self.pace = Pace()
        self.fuse = Fuse()
        self.tokens = PushTokens()
        self.services = build_services(
            store, self.artifacts, self.bases, clock, self.bell, b"pepper", self.tokens
        )
        self.trainers: dict[str, ScriptedCompany] = {}
        self.scripts: dict[str, Script] = {}
        """By job, where one is not like the others."""
        self.by_rate: dict[float, Script] = {}
        """By learning rate multiplier, for trials of a sweep."""
        self.project = Project(id="", organization_id="", name="", created_at=0)
        self.jobs: JobReconciler
        self.boot()

    @classmethod
    async def build(cls, url: str, root: Path) -> House:
        """A control plane with one project, on an empty database."""
        clock = FakeClock()
        house = cls(await Store.open(url, clock=clock.now), clock, root)
        house.project, _ = await house.services.projects.first("Acme", "main")
        async with house.store.begin() as tx:
            prices = ModelPrice(train=1_000_000, input=1_000_000, output=2_000_000)
            await ensure_prices(tx, {"seedling": prices})
        return house

    def boot(self) -> None:
        """Start the reconcilers, as a new process does; an old one's are forgotten."""
        provider = MortalProvider(SimulatedProvider(self.cloud), self.fuse)
        ctx = Context(
            store=self.store,
            artifacts=self.artifacts,
            bases=self.bases,
            clock=self.clock,
            pools={"simulated": Pool(provider=provider, limit=self.slots)},
            install="test",
            runs=self.root / "runs",
            trainer=("trainer",),
            environment={},
            code_version="test",
            connect=self.connect,
            limits=self.limits,
        )
        self.ctx = ctx
        self.jobs = MortalJobs(ctx, self.bell, self.pace, "test")
        self.jobs.fuse = self.fuse
        self.endpoints = EndpointReconciler(
            self.store, self.bases, self.engines, self.clock, self.bell, self.pace
        )
        self.placements = PlacementReconciler(
            self.store,
            self.artifacts,
            self.engines,
            folder=self.root / "adapters",
            connect=self.connect,
            bound=0.01,
            clock=self.clock,
            bell=self.bell,
            pace=self.pace,
            owner="test",
        )
        self.sweeps = SweepReconciler(
            self.store, self.services.jobs, self.clock, self.bell, self.pace, "test"
        )
        self.sweeper = Sweeper(self.store, ctx.pools, "test", self.clock, self.bell, self.pace)

    def connect(self, endpoint: Endpoint) -> EngineClient:
        """A client of the fake engine, without a socket."""
        assert endpoint.url and endpoint.token
        return EngineClient(endpoint.url, endpoint.token, transport=self.engine.transport())

    async def close(self) -> None:
        """End the engine, close the store."""
        await self.engine.destroy()
        await self.store.close()

    async def upload(self, content: bytes | None = None, name: str = "train.jsonl") -> StoredFile:
        """A file for fine-tuning."""
        return await self.services.files.create(
            self.project.id, filename=name, purpose="fine-tune", content=content or rows()
        )

    async def create(self, content: bytes | None = None, **fields: Any) -> JobView:
        """A job on a fresh upload."""
        given: dict[str, Any] = {"model": "seedling", "suffix": "codes", "seed": 7}
        if "training_file" not in fields:
            given["training_file"] = (await self.upload(content)).id
        if "validation_file" not in fields:
            given["validation_file"] = (await self.upload(rows(12, start=500), "valid.jsonl")).id
        key = fields.pop("idempotency_key", None)
        request = JobRequest(**{**given, **fields})
        return await self.services.jobs.create(self.project.id, request, idempotency_key=key)

    async def job(self, job_id: str) -> Job:
        """The job as it is now."""
        return (await self.services.jobs.get(self.project.id, job_id)).job

    async def turn(self, seconds: float = 1.0) -> None:
        """Every reconciler works once, every trainer takes a step, time moves on."""
        try:
            await self.sweeps.once()
            await self.jobs.once()
        finally:  # the others do not notice its death
            await self.endpoints.once()
            await self.placements.once()
            await self.train()
            await self.clock.advance(seconds)

    async def train(self) -> None:
        """Every living machine's trainer takes a step."""
        for machine in list(self.cloud.machines):
            if machine.stopped(self.clock.now()) is not None or machine.runs_at > self.clock.now():
                continue
            if machine.id not in self.trainers:
                self.trainers[machine.id] = ScriptedCompany(machine, self._script, self.clock)
            code = await asyncio.to_thread(self.trainers[machine.id].turn)
            if code is not None:
                machine.ended_at, machine.exit_code = self.clock.now(), code

    def _script(self, job: str) -> Script:
        if self.by_rate:
            spec = RunReader(open_transport((self.root / "runs" / job).as_uri())).spec()
            return self.by_rate[spec.schedule.learning_rate_multiplier]
        return self.scripts.get(job, self.script)

    async def until(self, job_id: str, *phases: Phase, turns: int = 60) -> Job:
        """Turn until the job is in one of ``phases`` (any end, if none is given)."""
        wanted = frozenset(phases) or TERMINAL
        job = await self.job(job_id)
        for _ in range(turns):
            if job.phase in wanted:
                return job
            await self.turn()
            job = await self.job(job_id)
        raise AssertionError(f"still {job.phase} after {turns} turns:\n{await self.log(job_id)}")

    async def log(self, job_id: str) -> str:
        """The job's log, oldest line first."""
        events = await self.services.jobs.events_since(self.project.id, job_id, limit=1000)
        return "\n".join(f"{event.level}: {event.message}" for event in events)

    def living(self) -> list[SimulatedMachine]:
        """Machines that still cost."""
        now = self.clock.now()
        return [machine for machine in self.cloud.machines if machine.stopped(now) is None]


async def ends_well(house: House, job: Job, machines: int = 1) -> None:
    """What must be true of every job that ended well, whatever happened on the way."""
    assert job.phase is Phase.DONE, await house.log(job.id)
    assert job.trained_tokens == STEPS * TOKENS
    assert not house.living()
    async with house.store.read() as tx:
        tokens = await tx.ledger.get(training_key(job.id))
        known = await tx.machines.for_job(job.id)
        entries = await tx.ledger.for_job(house.project.id, job.id)
        versions = [v for a in await tx.adapters.list(job.project_id) for v in await tx.versions.list(a.id)]
    assert tokens is not None
    assert (tokens.state, tokens.amount) == (EntryState.SETTLED, STEPS * TOKENS)
    assert all(machine.state is MachineState.GONE for machine in known)
    assert len(known) == len(house.cloud.machines) == machines
    assert all(entry.state is not EntryState.OPEN for entry in entries)
    assert len(entries) == 1 + machines
    assert [version.number for version in versions] == [1]
    view = await house.services.jobs.get(house.project.id, job.id)
    assert view.progress.losses == (2.0, 1.0, 2 / 3, 0.5)
    log = (await house.log(job.id)).splitlines()
    assert log.count("info: The job has successfully completed") == 1
    assert log.count("info: Fine-tuning job started") == 1


async def walk_to(house: House, job_id: str, phase: Phase) -> None:
    """Let the job take one step after another until it is in ``phase``."""
    for _ in range(200):
        if (await house.job(job_id)).phase is phase:
            return
        async with house.store.begin() as tx:
            claims = await tx.jobs.claim("walker", 1, house.pace.lease)
        for claim in claims:
            applied = await house.jobs.apply(claim, step := await house.jobs.act(claim.item))
            async with house.store.begin() as tx:
                await tx.jobs.release(applied, house.clock.now() + step.delay)
        if not claims:
            await house.endpoints.once()
            await house.placements.once()
            await house.train()
            await house.clock.advance(1)
    raise AssertionError(await house.log(job_id))


def _offer() -> Offer:
    return Offer(
        provider="simulated", id="cpu", price_per_hour=PRICE, fetched_at=0.0, cores=4, memory=1 << 34
    )
