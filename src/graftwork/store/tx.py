"""One transaction with all repositories."""

from __future__ import annotations

from collections.abc import Callable

from sqlalchemy.ext.asyncio import AsyncConnection

from graftwork.store.adapters import Adapters
from graftwork.store.aliases import Aliases
from graftwork.store.checkpoints import Checkpoints
from graftwork.store.endpoints import Endpoints
from graftwork.store.evaluations import Evaluations
from graftwork.store.exports import Exports
from graftwork.store.files import Files
from graftwork.store.job_events import JobEvents
from graftwork.store.jobs import Jobs
from graftwork.store.kept import Kept
from graftwork.store.keys import Keys
from graftwork.store.ledger import Ledger
from graftwork.store.machines import Machines
from graftwork.store.mirrors import Mirrors
from graftwork.store.organizations import Organizations
from graftwork.store.placements import Placements
from graftwork.store.prices import Prices
from graftwork.store.projects import Projects
from graftwork.store.queue import Queue
from graftwork.store.runs import Runs
from graftwork.store.session import Session
from graftwork.store.settings import SettingsTable
from graftwork.store.snapshot import Snapshot, read_snapshot
from graftwork.store.sweeps import Sweeps
from graftwork.store.versions import Versions
from graftwork.store.weights import WeightsTable


class Tx:
    """One open transaction. Tenant methods take the project first and see no other project's rows."""

    def __init__(self, conn: AsyncConnection, clock: Callable[[], float] | None = None) -> None:
        session = self.session = Session(conn, clock)
        self.organizations = Organizations(session)
        self.projects = Projects(session)
        self.keys = Keys(session)
        self.files = Files(session)
        self.jobs = Jobs(session)
        self.job_events = JobEvents(session)
        self.runs = Runs(session)
        self.sweeps = Sweeps(session)
        self.queue = Queue(session)
        self.machines = Machines(session)
        self.checkpoints = Checkpoints(session)
        self.weights = WeightsTable(session)
        self.adapters = Adapters(session)
        self.versions = Versions(session)
        self.aliases = Aliases(session)
        self.evaluations = Evaluations(session)
        self.exports = Exports(session)
        self.mirrors = Mirrors(session)
        self.endpoints = Endpoints(session)
        self.placements = Placements(session)
        self.ledger = Ledger(session)
        self.kept = Kept(session)
        self.prices = Prices(session)
        self.settings = SettingsTable(session)

    async def now(self) -> float:
        """The database's clock, unix seconds."""
        return await self.session.now()

    async def snapshot(self) -> Snapshot:
        """What the gateway needs, in a few queries."""
        return await read_snapshot(self.session)
