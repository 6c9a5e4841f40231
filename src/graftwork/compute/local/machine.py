"""One machine of a local host: how it is, what it said, and its end. Synchronous.

All state is in the folder (``folder.py``), so that any process, before or after a crash, sees the same.
"""

from __future__ import annotations

import os
import signal
from contextlib import suppress

from graftwork.compute.local import processes
from graftwork.compute.local.folder import ExitRecord, MachineFolder, Order, ProcessRecord, SupervisorRecord
from graftwork.compute.port import LogPage, MachineInfo
from graftwork.core.states import Observed

LOG_PAGE = 1 << 18
"""Bytes of log in one page, at most."""

_REASONS = {
    "deadline": "The deadline passed.",
    "terminated": "It was terminated from outside.",
}


class LocalMachine:
    """Reads a machine's folder against the process table."""

    def __init__(self, folder: MachineFolder) -> None:
        self.folder = folder

    def info(self) -> MachineInfo:
        """The machine now; changes nothing."""
        folder = self.folder
        order = folder.read(Order)
        supervised = self.supervised()
        # Read after the look at the supervisor: its last deed is to write the exit record.
        end, process = folder.read(ExitRecord), folder.read(ProcessRecord)
        if order is None:
            return MachineInfo(name=folder.name, state=Observed.GONE)
        state, message = self._state(end, process, supervised)
        return MachineInfo(
            name=folder.name,
            state=state,
            id=order.id,
            created_at=order.created_at,
            started_at=process.started_at if process else None,
            ended_at=end.ended_at if end else None,
            exit_code=end.exit_code if end else None,
            price_per_hour=order.price_per_hour,
            message=message,
        )

    def _state(
        self, end: ExitRecord | None, process: ProcessRecord | None, supervised: bool
    ) -> tuple[Observed, str]:
        terminated = self.folder.to_terminate
        if end is not None:
            return _ended(end, terminated)
        if supervised:
            state = Observed.STARTING if process is None else Observed.RUNNING
            return state, "It is being terminated." if terminated else ""
        left = self.left(process)
        if process is None or (terminated and not left):
            return Observed.GONE, ""
        if terminated:
            return Observed.RUNNING, "It is being terminated."
        if left:
            return Observed.ERROR, f"The supervisor was lost; {left} processes live on without it."
        return Observed.ERROR, "The supervisor was lost, and the command with it."

    def occupies(self) -> bool:
        """Whether the machine uses its slot: something of it lives."""
        alive = self.supervised() or self.left(self.folder.read(ProcessRecord)) > 0
        return alive and self.folder.read(ExitRecord) is None

    def supervised(self) -> bool:
        """Whether its supervisor lives."""
        supervisor = self.folder.read(SupervisorRecord)
        return supervisor is not None and processes.lives(supervisor.pid, supervisor.birth)

    @staticmethod
    def left(process: ProcessRecord | None) -> int:
        """How many processes of the command's group live."""
        return len(processes.members(process.pid, process.session)) if process else 0

    def logs(self, cursor: str | None) -> LogPage:
        """Whole lines after the byte offset ``cursor``."""
        start = int(cursor or "0")
        ended = not self.occupies()
        try:
            with self.folder.log.open("rb") as file:
                file.seek(start)
                data = file.read(LOG_PAGE)
        except FileNotFoundError:
            return LogPage(lines=[], cursor=str(start))
        cut = data.rfind(b"\n") + 1
        if (len(data) == LOG_PAGE and cut == 0) or (ended and len(data) < LOG_PAGE):
            cut = len(data)  # a line longer than a page, or the last one, without its newline
        lines = data[:cut].decode(errors="replace").splitlines()
        return LogPage(lines=lines, cursor=str(start + cut))

    def terminate(self, machine_id: str | None) -> None:
        """Mark the machine for its end and wake its supervisor; without one, kill what is left."""
        order = self.folder.read(Order)
        if order is None or machine_id not in (None, order.id):
            return
        self.folder.mark_terminate()
        supervisor = self.folder.read(SupervisorRecord)
        if supervisor is not None and processes.lives(supervisor.pid, supervisor.birth):
            _signal(supervisor.pid, signal.SIGTERM)
        elif (process := self.folder.read(ProcessRecord)) is not None and self.left(process):
            _signal(-process.pid, signal.SIGKILL)

    def set_deadline(self, deadline: float) -> None:
        """Rewrite the deadline; the supervisor looks at it twice a second."""
        if self.folder.read(Order) is not None:
            self.folder.deadline = deadline


def _ended(end: ExitRecord, terminated: bool) -> tuple[Observed, str]:
    if terminated:
        return Observed.GONE, ""
    if end.reason == "not_started":
        return Observed.ERROR, f"The command did not start: {end.message}."
    return Observed.EXITED, _REASONS.get(end.reason) or _farewell(end.exit_code or 0)


def _farewell(code: int) -> str:
    if code < 0:
        return f"The command was killed by {signal.Signals(-code).name}."
    return f"The command ended with exit code {code}."


def _signal(target: int, number: signal.Signals) -> None:
    """Signal a process, or a group by its negative number, if it is there."""
    with suppress(ProcessLookupError):
        os.kill(target, number)
