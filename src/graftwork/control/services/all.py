"""All services of one platform."""

from __future__ import annotations

from dataclasses import dataclass

from graftwork.artifacts import Artifacts
from graftwork.control.bases import Bases
from graftwork.control.bell import Bell
from graftwork.control.services.adapters import AdaptersService
from graftwork.control.services.billing import BillingService
from graftwork.control.services.dataset_tools import DatasetTools
from graftwork.control.services.datasets import DatasetsService
from graftwork.control.services.exports import ExportsService, PushTokens
from graftwork.control.services.files import FilesService
from graftwork.control.services.jobs import JobsService
from graftwork.control.services.kept import KeptService
from graftwork.control.services.keys import KeysService
from graftwork.control.services.models import ModelsService
from graftwork.control.services.plans import Machines, PlansService, nowhere
from graftwork.control.services.projects import ProjectsService
from graftwork.control.services.sweeps import SweepsService
from graftwork.core.clock import Clock
from graftwork.store import Store


@dataclass(frozen=True, slots=True, kw_only=True)
class Services:
    """One service for each noun."""

    projects: ProjectsService
    keys: KeysService
    files: FilesService
    datasets: DatasetsService
    dataset_tools: DatasetTools
    kept: KeptService
    plans: PlansService
    jobs: JobsService
    adapters: AdaptersService
    sweeps: SweepsService
    exports: ExportsService
    models: ModelsService
    billing: BillingService


def build_services(
    store: Store,
    artifacts: Artifacts,
    bases: Bases,
    clock: Clock,
    bell: Bell,
    pepper: bytes,
    tokens: PushTokens | None = None,
    machines: Machines = nowhere,
) -> Services:
    """The services over a store; ``bell`` and ``tokens`` are shared with the reconcilers, and ``machines``
    are what they have on offer."""
    files = FilesService(store, artifacts, clock)
    jobs = JobsService(store, bases, clock, bell)
    return Services(
        projects=ProjectsService(store, clock),
        keys=KeysService(store, clock, bell, pepper),
        files=files,
        datasets=DatasetsService(store, artifacts, bases),
        dataset_tools=DatasetTools(files, artifacts, bases),
        kept=KeptService(store, files),
        plans=PlansService(store, artifacts, bases, jobs, machines),
        jobs=jobs,
        sweeps=SweepsService(store, bases, clock, bell),
        adapters=AdaptersService(store, artifacts, clock, bell),
        exports=ExportsService(store, artifacts, clock, bell, tokens or PushTokens()),
        models=ModelsService(store, bases, clock, bell),
        billing=BillingService(store),
    )
