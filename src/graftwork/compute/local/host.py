"""The machines of one local host: launch, list, clear away. Synchronous; ``provider.py`` is the port.

One file lock over the host's folder makes "is there a free slot?" and "launch" one step, for all control
planes that share it.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
import sysconfig
import uuid
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path

import graftwork
from graftwork.compute.local.folder import ExitRecord, MachineFolder, Order
from graftwork.compute.local.machine import LocalMachine
from graftwork.compute.local.models import LocalOptions
from graftwork.compute.port import BadRequest, LaunchSpec, MachineInfo, NoCapacity, Unknown
from graftwork.core.states import Observed

LAUNCH_TIMEOUT = 60.0
"""Seconds a supervisor may take to report; it needs a twentieth of a second."""


class Host:
    """The folders under ``root``, one for each machine."""

    def __init__(self, root: Path, options: LocalOptions, environment: Mapping[str, str]) -> None:
        self.root = root
        self.options = options
        self.inherited = {k: v for k, v in environment.items() if k in options.keep_env}
        self.inherited.update(_importable(self.inherited))
        root.mkdir(mode=0o700, parents=True, exist_ok=True)

    def machine(self, name: str) -> LocalMachine:
        """The machine of this name, there or not."""
        return LocalMachine(MachineFolder(self.root / name))

    def machines(self, prefix: str = "") -> list[LocalMachine]:
        """All machines whose names begin so, gone ones included."""
        names = (path.name for path in self.root.iterdir() if path.is_dir())
        return [self.machine(name) for name in names if name.startswith(prefix)]

    def find(self, prefix: str) -> list[MachineInfo]:
        """All machines of this prefix that are not gone, oldest first."""
        seen = [machine.info() for machine in self.machines(prefix)]
        there = [machine for machine in seen if machine.state is not Observed.GONE]
        return sorted(there, key=lambda machine: machine.created_at or 0.0)

    def launch(self, name: str, spec: LaunchSpec, price_per_hour: int, now: float) -> MachineInfo:
        """Start the machine, or return the one that bears the name already. See ``Provider.launch``."""
        with self._locked():
            machine = self.machine(name)
            present = machine.info()
            if present.state is not Observed.GONE:
                return present
            if machine.folder.to_terminate:
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
            self._clear_away(now)
            if sum(other.occupies() for other in self.machines()) >= self.options.slots:
                raise NoCapacity(
                    f"All {self.options.slots} local slots are taken.",
                    fix="Wait for a machine to end, or allow more slots.",
                )
            self._write_order(machine.folder, spec, price_per_hour, now)
            self._start_supervisor(machine.folder)
            made = machine.info()
        if made.state is Observed.GONE:
            # A supervisor that a dead control plane started a moment ago is still on its way to its record.
            raise Unknown(f"The machine {name} is not to be seen yet.", fix="Look it up again by its name.")
        return made

    def _write_order(self, folder: MachineFolder, spec: LaunchSpec, price_per_hour: int, now: float) -> None:
        # Nothing has ever run under this name (else it were not gone): what a crash left may be overwritten.
        folder.create()
        folder.deadline = spec.deadline
        given = {"GRAFTWORK_RUN": spec.run_uri, "GRAFTWORK_MACHINE": folder.name}
        order = Order(
            id=uuid.uuid4().hex,
            name=folder.name,
            command=spec.command,
            env=self.inherited | spec.env | given,
            created_at=now,
            price_per_hour=price_per_hour,
            grace=self.options.grace,
        )
        folder.write(order)

    def _start_supervisor(self, folder: MachineFolder) -> None:
        command = [sys.executable, "-m", "graftwork.compute.local.supervisor", str(folder.path)]
        try:
            done = subprocess.run(
                command,
                env=self.inherited,
                start_new_session=True,  # an interrupt meant for the control plane is not for it
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

    def _clear_away(self, now: float) -> None:
        """Remove the folders of machines that are gone for long."""
        for machine in self.machines():
            order, end = machine.folder.read(Order), machine.folder.read(ExitRecord)
            last = end.ended_at if end else order.created_at if order else now
            if last <= now - self.options.keep_seconds and machine.info().state is Observed.GONE:
                shutil.rmtree(machine.folder.path)

    @contextmanager
    def _locked(self) -> Generator[None]:
        descriptor = os.open(self.root / ".lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)


def _importable(environment: Mapping[str, str]) -> dict[str, str]:
    """Let the machine import the very code of this control plane, when that is not an installed package."""
    home = Path(graftwork.__file__).resolve().parents[1]
    if home in (Path(sysconfig.get_path("purelib")), Path(sysconfig.get_path("platlib"))):
        return {}
    paths = [str(home), *filter(None, environment.get("PYTHONPATH", "").split(os.pathsep))]
    return {"PYTHONPATH": os.pathsep.join(dict.fromkeys(paths))}
