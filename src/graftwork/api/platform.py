"""What the edge needs of the platform: the services, and a few things that belong to no noun."""

from __future__ import annotations

from typing import Any, Protocol

from fastapi import Request

from graftwork.control.bases import Bases
from graftwork.control.services.adapters import AdaptersService
from graftwork.control.services.billing import BillingService
from graftwork.control.services.dataset_tools import DatasetTools
from graftwork.control.services.datasets import DatasetsService
from graftwork.control.services.exports import ExportsService
from graftwork.control.services.files import FilesService
from graftwork.control.services.jobs import JobsService
from graftwork.control.services.kept import KeptService
from graftwork.control.services.keys import KeysService
from graftwork.control.services.models import ModelsService
from graftwork.control.services.plans import PlansService
from graftwork.control.services.sweeps import SweepsService
from graftwork.core.clock import Clock
from graftwork.gateway import Gateway
from graftwork.store import Store


class Platform(Protocol):
    """The running platform as the API sees it; ``control`` builds one from its settings."""

    @property
    def store(self) -> Store:
        """The database, for the gateway."""
        ...

    @property
    def clock(self) -> Clock:
        """Time."""
        ...

    @property
    def pepper(self) -> bytes:
        """The install's secret under which API keys are hashed."""
        ...

    @property
    def bases(self) -> Bases:
        """Base models."""
        ...

    @property
    def files(self) -> FilesService:
        """Files."""
        ...

    @property
    def jobs(self) -> JobsService:
        """Fine-tuning jobs."""
        ...

    @property
    def adapters(self) -> AdaptersService:
        """Adapters, versions, aliases."""
        ...

    @property
    def sweeps(self) -> SweepsService:
        """Searches over hyperparameters."""
        ...

    @property
    def exports(self) -> ExportsService:
        """Versions in other formats, and pushed to the Hub."""
        ...

    @property
    def models(self) -> ModelsService:
        """Names that may be sent as ``model``."""
        ...

    @property
    def keys(self) -> KeysService:
        """API keys."""
        ...

    @property
    def billing(self) -> BillingService:
        """Bills, usage, budgets."""
        ...

    @property
    def datasets(self) -> DatasetsService:
        """The validator."""
        ...

    @property
    def dataset_tools(self) -> DatasetTools:
        """The data helpers."""
        ...

    @property
    def kept(self) -> KeptService:
        """Requests that projects opted to keep."""
        ...

    @property
    def plans(self) -> PlansService:
        """Plans of jobs that are not made."""
        ...

    async def doctor(self) -> list[dict[str, Any]]:
        """Checks of this installation: name, whether it is well, and what to do if not."""
        ...


def platform_of(request: Request) -> Platform:
    """The platform behind a request."""
    return request.app.state.platform


def gateway_of(request: Request) -> Gateway:
    """The gateway beside this API: it holds the keys, and must hear of changes at once."""
    return request.app.state.gateway
