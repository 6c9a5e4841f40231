"""Everything put together: one running platform from its settings, without HTTP.

async with Platform.start(settings) as platform:
    view = await platform.services.jobs.get(project_id, job_id)
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import asdict
from typing import Any

from graftwork import __version__
from graftwork.artifacts import Artifacts
from graftwork.billing import current_prices, ensure_prices, publish
from graftwork.compute.port import Need, Provider
from graftwork.compute.registry import create_provider
from graftwork.control.bases import Bases
from graftwork.control.bell import Bell
from graftwork.control.doctor import check_all
from graftwork.control.install import FIRST_KEY, Secrets, install_id, locked
from graftwork.control.prices import listed
from graftwork.control.reconcilers.all import build_reconcilers, running
from graftwork.control.reconcilers.endpoints import STARTING, EngineFactory, Engines
from graftwork.control.reconcilers.jobs.admission import cheapest
from graftwork.control.reconcilers.jobs.context import Context, Pool
from graftwork.control.reconcilers.jobs.planning import targets_of
from graftwork.control.services.all import Services, build_services
from graftwork.control.services.exports import PushTokens
from graftwork.control.settings import Settings
from graftwork.core.clock import Clock, SystemClock
from graftwork.core.errors import GraftworkError, PlatformError, Unavailable
from graftwork.core.ids import slug
from graftwork.core.nouns import Endpoint, Project
from graftwork.core.states import Observed
from graftwork.models import Catalogue, Target, trainers
from graftwork.models.entry import Prices
from graftwork.serving.client import EngineClient
from graftwork.serving.port import Engine
from graftwork.serving.registry import EngineConfig
from graftwork.serving.registry import create as create_engine
from graftwork.store import Store

log = logging.getLogger("graftwork.control")

PASSED_ON = ("GRAFTWORK_COMPANY", "GRAFTWORK_GEMM")
"""What trainers are told of this server's own environment: how they compute (docs/engine.md)."""
STOP_SECONDS = 30.0
"""How long machines on this host get to save their state when the server stops."""
_ENDED = frozenset({Observed.EXITED, Observed.ERROR, Observed.GONE})


class Platform:
    """A running platform. Made by ``start`` only.

    Attributes:
        services: the use cases; each is an attribute of the platform as well.
        project: the first project.
        first_start: whether this start made it.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        store: Store,
        secrets: Secrets,
        clock: Clock,
        install: str,
        pools: Mapping[str, Pool],
        engines: EngineFactory,
    ) -> None:
        self.settings = settings
        self.store = store
        self.clock = clock
        self.bell = Bell()
        self.pools = pools
        self.engines = Engines(engines)
        self.pepper = secrets.pepper()
        self.artifacts = Artifacts(settings.artifacts_root)
        self.bases = bases_of(settings)
        self.tokens = PushTokens()
        services = build_services(
            store, self.artifacts, self.bases, clock, self.bell, self.pepper, self.tokens, self._machines
        )
        self.services: Services = services
        self.files, self.jobs, self.adapters = services.files, services.jobs, services.adapters
        self.models, self.keys, self.projects = services.models, services.keys, services.projects
        self.sweeps = services.sweeps
        self.billing, self.datasets = services.billing, services.datasets
        self.dataset_tools, self.kept = services.dataset_tools, services.kept
        self.plans = services.plans
        self.exports = services.exports
        self.project: Project | None = None
        self.first_start = False
        self.context = context_of(self, install)
        self._secrets = secrets

    @classmethod
    @asynccontextmanager
    async def start(
        cls,
        settings: Settings,
        *,
        clock: Clock | None = None,
        providers: Mapping[str, Pool] | None = None,
        engines: EngineFactory | None = None,
    ) -> AsyncIterator[Platform]:
        """Open everything, found what is missing, and run the reconcilers until the block ends.

        At the end machines on this host are asked to stop and save their state: their jobs go on from there
        at the next start. Machines elsewhere are left alone for as long as their leases last.

        Args:
            settings: what to run.
            clock: time; the system's if not given.
            providers: where machines come from; this host if not given.
            engines: makes the engine of an endpoint; the engine it names if not given.

        Raises:
            Conflict: another server uses the data folder (``data_dir_in_use``).
        """
        clock = clock or SystemClock()
        async with AsyncExitStack() as stack:
            stack.enter_context(locked(settings.data))
            store = await Store.open(settings.database_url)
            stack.push_async_callback(store.close)
            async with store.begin() as tx:
                install = await install_id(tx)
            platform = cls(
                settings,
                store=store,
                secrets=Secrets(settings.data),
                clock=clock,
                install=install,
                pools=providers if providers is not None else local_pools(settings, clock),
                engines=engines or engine_factory(settings),
            )
            stack.push_async_callback(platform.engines.destroy)
            await platform._found()
            stack.push_async_callback(platform._drain)
            loops = build_reconcilers(
                platform.context, platform.engines, settings, platform.bell, platform.tokens
            )
            await stack.enter_async_context(running(loops, platform.bell))
            yield platform

    def first_key(self) -> str:
        """The key of the first project, as it was made at the first start.

        Raises:
            PlatformError: its file was removed (``first_key_missing``).
        """
        text = self._secrets.read(FIRST_KEY)
        if text is None:
            raise PlatformError(
                "The first key is not in the data folder any more.",
                fix="Make another one with: graft key create.",
                code="first_key_missing",
            )
        return text

    async def _machines(self) -> Sequence[Target]:
        """Machines on offer now, cheapest first."""
        return targets_of(await cheapest(self.context, Need()))

    async def doctor(self) -> list[dict[str, Any]]:
        """Checks of this installation: name, state (ok, warn, fail), what was seen, what to do."""
        return [
            asdict(check) for check in await check_all(self.store, self.pools, self.settings.data, os.environ)
        ]

    async def _found(self) -> None:
        """The first project with its key, the prices, and the engines that are to be warm. Repeatable."""
        self.project, self.first_start = await self.projects.first(
            self.settings.organization, self.settings.project
        )
        if self.first_start or self._secrets.read(FIRST_KEY) is None:
            made = await self.keys.create(self.project.id, name="first")
            self._secrets.write(FIRST_KEY, made.text)
        async with self.store.begin() as tx:
            await ensure_prices(tx, {entry.name: listed(entry) for entry in self.bases.list()})
            if self.settings.prices:
                await publish(tx, {**(await current_prices(tx)).models, **self.settings.prices})
            # Whatever ran before this start is not to be trusted with a request before it was seen.
            for endpoint in await tx.endpoints.list():
                await tx.endpoints.update(endpoint.id, state=STARTING, url=None, message=None)
        for name in self.settings.warm:
            entry = await self.bases.get(name)
            await self.models.offer(name)
            async with self.store.begin() as tx:
                await tx.endpoints.ensure(name, self.bases.engine(entry), self.clock.now())

    async def _drain(self) -> None:
        """Let the machines that end with this server save their state."""
        async with self.store.read() as tx:
            live = await tx.machines.live()
        leaving = {
            machine.name: pool.provider
            for machine in live
            if (pool := self.pools.get(machine.provider)) is not None and pool.ends_with_us
        }
        try:
            async with asyncio.timeout(STOP_SECONDS):
                await asyncio.gather(*(_end(provider, name) for name, provider in leaving.items()))
        except (TimeoutError, GraftworkError) as error:
            # Their leases and deadlines end them; their jobs are looked at again at the next start.
            log.warning("machines still stopping: %s (%s)", ", ".join(leaving), error)


def bases_of(settings: Settings) -> Bases:
    """The base models that the settings allow."""
    cache = settings.data / "models"
    own = {name: Prices(p.train, p.input, p.output) for name, p in settings.prices.items()}
    return Bases(Catalogue(allow=settings.allow, cache=cache, prices=own), cache)


def local_pools(settings: Settings, clock: Clock) -> dict[str, Pool]:
    """This host, with the settings' slots."""
    options = {"slots": settings.slots, "price_per_hour": settings.price_per_hour}
    provider = create_provider("local", root=settings.data / "machines", clock=clock, options=options)
    return {"local": Pool(provider=provider, limit=settings.slots, ends_with_us=True)}


def engine_factory(settings: Settings) -> EngineFactory:
    """Makes the engine that an endpoint names, each in a folder of its own."""

    def make(endpoint: Endpoint) -> Engine:
        root = settings.data / "engines" / slug(endpoint.id.replace("_", "-"))
        config = EngineConfig(root=root, options=dict(settings.engine_options))
        return create_engine(endpoint.engine, config)

    return make


def connect(endpoint: Endpoint) -> EngineClient:
    """A client of an endpoint's engine.

    Raises:
        Unavailable: it is not up.
    """
    if endpoint.url is None or endpoint.token is None:
        raise Unavailable(f"The engine of {endpoint.base} is not up.", fix="Try again in some seconds.")
    return EngineClient(endpoint.url, endpoint.token)


def context_of(platform: Platform, install: str) -> Context:
    """What the phases of jobs act with."""
    settings = platform.settings
    return Context(
        store=platform.store,
        artifacts=platform.artifacts,
        bases=platform.bases,
        clock=platform.clock,
        pools=platform.pools,
        install=install,
        runs=settings.data / "runs",
        trainer=settings.trainer,
        environment={
            "GRAFTWORK_CACHE": str(settings.data / "models"),
            **{name: os.environ[name] for name in PASSED_ON if name in os.environ},
            **trainers.passed_on(os.environ),
        },
        code_version=__version__,
        connect=connect,
        limits=settings.limits,
    )


async def _end(provider: Provider, name: str) -> None:
    await provider.terminate(name)
    while (await provider.describe(name)).state not in _ENDED:  # noqa: ASYNC110 - it rings no bell
        await asyncio.sleep(0.1)
