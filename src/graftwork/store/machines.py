"""Machines: the intents, written before anything is launched, and what became of them."""

from __future__ import annotations

from typing import Any

from graftwork.core.nouns import Machine
from graftwork.core.states import MachineState
from graftwork.store.session import Items, Repository
from graftwork.store.tables import machines

_LIVE = machines.c.state != MachineState.GONE


class Machines(Repository):
    """Machines by their deterministic names. For reconcilers: no tenant is checked."""

    async def create(self, machine: Machine) -> bool:
        """Write the intent; the same name again is a no-op (False)."""
        return await self._insert_new(machines, machine)

    async def get(self, name: str) -> Machine | None:
        """One machine."""
        return await self._one(Machine, machines, machines.c.name == name)

    async def set_state(self, name: str, state: MachineState, *, at: float) -> bool:
        """Move a machine on, with the time of it; a gone machine never comes back (False)."""
        changes: dict[str, Any] = {"state": state}
        if state is MachineState.LAUNCHED:
            changes["launched_at"] = at
        elif state is MachineState.GONE:
            changes["gone_at"] = at
        return await self._change(machines, machines.c.name == name, _LIVE, **changes)

    async def lock(self, name: str) -> Machine | None:
        """One machine, and nobody else comes aboard or leaves until this transaction ends.

        What was read of its runs before this call may be old: read them after it.
        """
        return await self._one(Machine, machines, machines.c.name == name, lock=True)

    async def shut(self, name: str, at: float) -> bool:
        """Let nobody come aboard any more; False if it was shut before."""
        return await self._change(
            machines, machines.c.name == name, machines.c.closed_at.is_(None), closed_at=at
        )

    async def open(self) -> Items[Machine]:
        """Shared machines that runs may still come aboard of, oldest first."""
        free = (_LIVE, machines.c.shared, machines.c.closed_at.is_(None))
        return await self._all(Machine, machines, *free, order=[machines.c.created_at, machines.c.name])

    async def set_deadline(self, name: str, deadline: float) -> bool:
        """Move the deadline of a live machine."""
        return await self._change(machines, machines.c.name == name, _LIVE, deadline=deadline)

    async def live(self) -> Items[Machine]:
        """All machines not confirmed gone, oldest first."""
        return await self._all(Machine, machines, _LIVE, order=[machines.c.created_at, machines.c.name])

    async def for_job(self, job_id: str) -> Items[Machine]:
        """All machines a job ever had, first attempt first."""
        return await self._all(Machine, machines, machines.c.job_id == job_id, order=[machines.c.fence])
