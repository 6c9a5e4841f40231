"""The sweeper: what nobody wants any more is given back, whoever forgot it (law 4 of the design)."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Awaitable, Mapping
from dataclasses import dataclass

from graftwork.compute.port import MachineInfo, Provider
from graftwork.control.bell import Bell
from graftwork.control.reconcilers.base import Pace, SlowLoop
from graftwork.control.reconcilers.jobs.context import Pool
from graftwork.control.reconcilers.jobs.machines import close
from graftwork.core.clock import Clock
from graftwork.core.errors import MachineError, UserError
from graftwork.core.nouns import Job, LedgerEntry, Machine
from graftwork.core.states import TERMINAL
from graftwork.store import Store

log = logging.getLogger("graftwork.control")


@dataclass(frozen=True, slots=True, kw_only=True)
class Graces:
    """Seconds that things may be out of order before the sweeper steps in."""

    unknown_machine: float = 300.0
    """Of a machine under our prefix that no live intent knows."""
    deadline: float = 60.0
    """After its deadline, for the trainer and the provider to end a machine themselves."""
    reservation: float = 1800.0
    """Of an inference reservation that was never settled: its gateway died."""


class Sweeper(SlowLoop):
    """Machines without an intent, machines past their deadline, reservations that nobody will settle."""

    name = "sweeper"

    def __init__(
        self,
        store: Store,
        pools: Mapping[str, Pool],
        install: str,
        clock: Clock,
        bell: Bell,
        pace: Pace,
        graces: Graces | None = None,
    ) -> None:
        super().__init__(clock, bell, pace)
        self._store = store
        self._pools = pools
        self._prefix = f"gw-{install}-"
        self._graces = graces or Graces()

    async def once(self) -> int:
        """One sweep; how many things were put in order."""
        swept = await self._leftovers()
        for pool in self._pools.values():
            try:
                swept += await self._strays(pool.provider)
            except (MachineError, UserError) as error:
                log.warning("sweeper: %s: %s", pool.provider.name, error)
        return swept + await self._reservations()

    async def _leftovers(self) -> int:
        """Machines we know of that are past their deadline, or that no job is on any more."""
        async with self._store.read() as tx:
            known = [(machine, await tx.runs.crew(machine.name)) for machine in await tx.machines.live()]
        swept = 0
        for machine, crew in known:
            pool = self._pools.get(machine.provider)
            if pool is None:
                log.warning("sweeper: %s is at %s, which is not configured", machine.name, machine.provider)
            elif not crew:
                close_it = close(self._store, self.clock, self._pools, machine)
                swept += await self._deed(close_it, machine)
            elif machine.deadline + self._graces.deadline < self.clock.now():
                # Its job sees the end of it, and judges.
                swept += await self._deed(pool.provider.terminate(machine.name), machine)
        return swept

    async def _deed(self, deed: Awaitable[object], machine: Machine) -> bool:
        """Do it; a machine that cannot be ended now does not keep the others from being swept."""
        return await self.guarded(deed, f"sweeper: {machine.name}") is None

    async def _strays(self, provider: Provider) -> int:
        """Machines under our prefix that no live intent knows, and second ones of a name that one does."""
        found = await provider.find(self._prefix)
        async with self._store.read() as tx:
            wanted = {machine.name for machine in await tx.machines.live()}
        by_name: dict[str, list[MachineInfo]] = defaultdict(list)
        for info in found:
            by_name[info.name].append(info)
        swept = 0
        for name, same in by_name.items():
            for info in same[1:] if name in wanted else [info for info in same if self._old(info)]:
                log.warning("sweeper: %s (%s) at %s is not ours to keep", name, info.id, provider.name)
                await provider.terminate(name, machine_id=info.id)
                swept += 1
        return swept

    def _old(self, info: MachineInfo) -> bool:
        return (info.created_at or 0.0) + self._graces.unknown_machine <= self.clock.now()

    async def _reservations(self) -> int:
        """Open entries whose end nobody will write any more are released."""
        now = self.clock.now()
        async with self._store.begin() as tx:
            swept = 0
            old = await tx.ledger.open_before(now - self._graces.reservation)
            for entry in sorted(old, key=lambda entry: entry.key):  # the order of all who lock entries
                job_id = entry.refs.get("job")
                job = None if job_id is None else await tx.jobs.any_get(job_id)
                if _orphan(entry, job):
                    swept += await tx.ledger.void(entry.key, now)
        return swept


def _orphan(entry: LedgerEntry, job: Job | None) -> bool:
    if entry.kind == "inference":
        return True
    return entry.kind == "training_tokens" and (job is None or job.phase in TERMINAL)
