"""The machines of one local host: launch, look, end. Synchronous and blocking; ``provider.py`` is the port.

All state is in the folders (``folder.py``), so that any process, before or after a crash, sees the same.
One file lock over the whole host makes "is there a free slot?" and "launch" one step.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
import subprocess
import sys
import sysconfig
import uuid
from collections.abc import Generator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

import graftwork
from graftwork.compute.local import processes
from graftwork.compute.local.folder import ExitRecord, MachineFolder, Order, ProcessRecord
from graftwork.compute.local.models import LocalOptions
from graftwork.compute.port import BadRequest, LaunchSpec, LogPage, MachineInfo, NoCapacity, Unknown
from graftwork.core.states import Observed

LOG_PAGE = 1 << 18
"""Bytes of log in one page, at most."""
LAUNCH_TIMEOUT = 60.0

_REASONS = {
    "exited": "The command ended.",
    "deadline": "The deadline passed.",
    "terminated": "It was terminated.",
}


class Machines:
    """The folders under ``root``, one for each machine."""

    def __init__(self, root: Path, options: LocalOptions, environment: Mapping[str, str]) -> None:
        self.root = root
        self.options = options
        self.inherited = {k: v for k, v in environment.items() if k in options.keep_env}
        self.inherited.update(_importable(self.inherited))
        root.mkdir(mode=0o700, parents=True, exist_ok=True)

    # ------------------------------------------------------------------------------------------ launch

    def launch(self, name: str, spec: LaunchSpec, price_per_hour: int, now: float) -> MachineInfo:
        """Start the machine, or return the one that bears the name already. See ``Provider.launch``."""
        with self._locked():
            folder = self._folder(name)
            present = self.describe(name)
            if present.state is not Observed.GONE:
                return present
            if folder.path.exists() and folder.to_terminate:
                raise BadRequest(
                    f"The machine name {name} was used and given back.",
                    fix="Use the name of the next attempt.",
                    code="machine_name_used",
                    param="name",
                )
            if spec.deadline <= now:
                raise BadRequest(
                    "The machine's deadline has passed.", fix="Set a later one.", param="deadline"
                )
            self._prune(now)
            if sum(self.occupies(other) for other in self.folders("")) >= self.options.slots:
                raise NoCapacity(
                    f"All {self.options.slots} local slots are taken.",
                    fix="Wait for a machine to end, or allow more slots.",
                )
            self._prepare(folder, spec, price_per_hour, now)
            self._supervise(folder)
            return self.describe(name)

    def _prepare(self, folder: MachineFolder, spec: LaunchSpec, price_per_hour: int, now: float) -> None:
        # Nothing has ever run under this name (else it were not gone): what a crash left may be overwritten.
        folder.create()
        folder.deadline = spec.deadline
        folder.order = Order(
            id=uuid.uuid4().hex,
            name=folder.name,
            command=spec.command,
            env=self.inherited | {"GRAFTWORK_RUN": spec.run_uri, "GRAFTWORK_MACHINE": folder.name} | spec.env,
            created_at=now,
            price_per_hour=price_per_hour,
            grace=self.options.grace,
        )

    def _supervise(self, folder: MachineFolder) -> None:
        command = [sys.executable, "-m", "graftwork.compute.local.supervisor", str(folder.path)]
        try:
            done = subprocess.run(
                command,
                env=self.inherited,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                timeout=LAUNCH_TIMEOUT,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise Unknown(f"The supervisor of {folder.name} did not report in time.") from error
        except OSError as error:
            raise NoCapacity(
                f"This host starts no process: {error}.", fix="Free memory or processes."
            ) from error
        if done.returncode != 0:
            said = done.stderr.decode(errors="replace").strip().rpartition("\n")[2]
            raise NoCapacity(f"The supervisor of {folder.name} did not start: {said or done.returncode}.")

    def _prune(self, now: float) -> None:
        for folder in self.folders(""):
            order = folder.order
            if order and order.created_at < now - self.options.keep_seconds and folder.to_terminate:
                end = folder.exit
                ended = order.created_at if end is None else end.ended_at
                gone = self.describe(folder.name).state is Observed.GONE
                if gone and ended <= now - self.options.keep_seconds:
                    shutil.rmtree(folder.path)

    # -------------------------------------------------------------------------------------------- look

    def describe(self, name: str) -> MachineInfo:
        """The machine now; reads files and the process table, changes nothing."""
        folder = self._folder(name)
        order = folder.order
        supervised = order is not None and self._supervised(folder)
        # Read after the look at the supervisor: its last deed is to write the exit record.
        end, process = folder.exit, folder.process
        if order is None:
            return MachineInfo(name=name, state=Observed.GONE)
        if end is not None:
            state, message = _ended(end, folder.to_terminate)
        else:
            state, message = self._alive(folder, process, supervised)
        return MachineInfo(
            name=name,
            state=state,
            id=order.id,
            created_at=order.created_at,
            started_at=process.started_at if process else None,
            ended_at=end.ended_at if end else None,
            exit_code=end.exit_code if end else None,
            price_per_hour=order.price_per_hour,
            message=message,
        )

    def _alive(
        self, folder: MachineFolder, process: ProcessRecord | None, supervised: bool
    ) -> tuple[Observed, str]:
        ending = folder.to_terminate
        if supervised:
            state = Observed.STARTING if process is None else Observed.RUNNING
            return state, "It is being terminated." if ending else ""
        left = self._left(process)
        if process is None or (ending and not left):
            return Observed.GONE, ""
        if ending:
            return Observed.RUNNING, "It is being terminated."
        if left:
            return Observed.ERROR, f"The supervisor was lost; {left} processes live on without it."
        return Observed.ERROR, "The supervisor was lost, and the command with it."

    def find(self, prefix: str) -> list[MachineInfo]:
        """All machines of this prefix that are not gone, oldest first."""
        seen = [self.describe(folder.name) for folder in self.folders(prefix)]
        there = [machine for machine in seen if machine.state is not Observed.GONE]
        return sorted(there, key=lambda machine: machine.created_at or 0.0)

    def folders(self, prefix: str) -> list[MachineFolder]:
        """The folders of all machines whose names begin so, gone ones included."""
        return [MachineFolder(p) for p in self.root.glob(f"{prefix}*") if not p.name.startswith(".")]

    def occupies(self, folder: MachineFolder) -> bool:
        """Whether the machine uses its slot: something of it lives."""
        return folder.exit is None and (self._supervised(folder) or self._left(folder.process) > 0)

    def logs(self, name: str, cursor: str | None) -> LogPage:
        """Whole lines after the byte offset ``cursor``."""
        start = int(cursor or "0")
        folder = self._folder(name)
        ended = not self.occupies(folder)
        try:
            with folder.log.open("rb") as file:
                file.seek(start)
                data = file.read(LOG_PAGE)
        except FileNotFoundError:
            return LogPage(lines=[], cursor=str(start))
        cut = data.rfind(b"\n") + 1
        if (len(data) == LOG_PAGE and cut == 0) or (ended and len(data) < LOG_PAGE):
            cut = len(data)  # a line longer than a page, or the last one, without its newline
        lines = data[:cut].decode(errors="replace").splitlines()
        return LogPage(lines=lines, cursor=str(start + cut))

    # --------------------------------------------------------------------------------------------- end

    def terminate(self, name: str, machine_id: str | None) -> None:
        """Mark the machine for its end and wake its supervisor; without one, kill what is left."""
        folder = self._folder(name)
        order = folder.order
        if order is None or machine_id not in (None, order.id):
            return
        folder.mark_terminate()
        supervisor = folder.supervisor
        if supervisor is not None and processes.lives(supervisor.pid, supervisor.birth):
            _signal(supervisor.pid, signal.SIGTERM)
        elif process := folder.process:
            while self._left(process):
                _signal(-process.pid, signal.SIGKILL)

    def set_deadline(self, name: str, deadline: float) -> None:
        """Rewrite the deadline; its supervisor looks at it twice a second."""
        folder = self._folder(name)
        if folder.order is not None:
            folder.deadline = deadline

    # ---------------------------------------------------------------------------------------- plumbing

    def _folder(self, name: str) -> MachineFolder:
        return MachineFolder(self.root / name)

    @staticmethod
    def _supervised(folder: MachineFolder) -> bool:
        supervisor = folder.supervisor
        return supervisor is not None and processes.lives(supervisor.pid, supervisor.birth)

    @staticmethod
    def _left(process: ProcessRecord | None) -> int:
        return len(processes.members(process.pid, process.session)) if process else 0

    @contextmanager
    def _locked(self) -> Generator[None]:
        descriptor = os.open(self.root / ".lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)


def _ended(end: ExitRecord, terminated: bool) -> tuple[Observed, str]:
    if terminated:
        return Observed.GONE, ""
    if end.reason == "not_started":
        return Observed.ERROR, f"The command did not start: {end.message}."
    return Observed.EXITED, _REASONS[end.reason]


def _signal(target: int, number: signal.Signals) -> None:
    """Signal a process, or a group by its negative number, if it is there."""
    with suppress(ProcessLookupError):
        os.kill(target, number)


def _importable(environment: Mapping[str, str]) -> dict[str, str]:
    """Let the machine import the very code of this control plane, when that is not an installed package."""
    home = Path(graftwork.__file__).resolve().parents[1]
    if home in (Path(sysconfig.get_path("purelib")), Path(sysconfig.get_path("platlib"))):
        return {}
    paths = [str(home), *filter(None, environment.get("PYTHONPATH", "").split(os.pathsep))]
    return {"PYTHONPATH": os.pathsep.join(dict.fromkeys(paths))}
