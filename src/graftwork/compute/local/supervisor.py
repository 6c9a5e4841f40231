"""The process that stands over a local machine's command: starts it once, ends it in time, records it.

    python -m graftwork.compute.local.supervisor DIR

Returns 0 as soon as a supervisor of its own session watches over DIR (this one, gone to the background, or
one that was there before). It owes nothing to the control plane, which may be killed and restarted at will:

- the command runs at most once, ever: it is forked, recorded, and only then let go;
- at the deadline, or at a ``terminate`` marker, the command's process group gets SIGTERM, some seconds of
  grace, then SIGKILL; whatever has left the group is adopted (Linux) and killed too;
- if the supervisor itself is killed, the kernel kills the command with it (Linux: PR_SET_PDEATHSIG).

Standard library only, no torch, no pydantic: one of these lives as long as each machine.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import select
import signal
import sys
import time
from pathlib import Path
from typing import NoReturn

from graftwork.compute.local import processes
from graftwork.compute.local.folder import ExitRecord, MachineFolder, Order, ProcessRecord, SupervisorRecord

TICK = 0.5
"""Seconds between looks at the deadline file; signals wake the supervisor at once."""
LEFTOVER_GRACE = 3.0
"""Seconds that background processes of a command have to end after it."""

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36


def prctl(option: int, value: int) -> bool:
    """Linux's prctl(2); False on other platforms and when the kernel refuses."""
    return sys.platform == "linux" and ctypes.CDLL(None).prctl(option, value, 0, 0, 0) == 0


def run_child(order: Order, folder: MachineFolder, release: int, trouble: int, parent: int) -> NoReturn:
    """In the forked child: wait to be let go, then become the command. Reports what prevents it."""
    try:
        os.setpgid(0, 0)
        prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        # End of file instead of a byte, or another parent: the supervisor died before it recorded us.
        if os.read(release, 1) != b"g" or os.getppid() != parent:
            os._exit(127)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD, signal.SIGPIPE):
            signal.signal(number, signal.SIG_DFL)  # what is ignored here would stay ignored there
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        log = os.open(folder.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        os.dup2(log, 1)
        os.dup2(log, 2)
        os.chdir(folder.work)
        os.execvpe(order.command[0], order.command, order.env)  # noqa: S606 - no shell is the point
    except (OSError, ValueError) as error:
        os.write(trouble, str(error).encode())
    os._exit(127)


class Supervisor:
    """Life of one command. Call ``start``, then ``watch``, then ``finish``."""

    def __init__(self, folder: MachineFolder, order: Order) -> None:
        self.folder = folder
        self.order = order
        self.pid = 0
        self.status: int | None = None
        self.asked = False
        self.deadline = folder.deadline or 0.0
        self.wake, write_end = os.pipe()
        os.set_blocking(self.wake, False)
        os.set_blocking(write_end, False)
        signal.set_wakeup_fd(write_end, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, self.ignore)
        signal.signal(signal.SIGTERM, self.ask)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)

    def ask(self, *_: object) -> None:
        """Note that the machine is to end (also the handler of SIGTERM)."""
        self.asked = True

    def ignore(self, *_: object) -> None:
        """Let a signal do nothing but wake ``pause`` (SIGCHLD)."""

    def start(self) -> str:
        """Fork, record, let go. Returns what prevented the command from starting, or nothing."""
        prctl(_PR_SET_CHILD_SUBREAPER, 1)
        (release_read, release), (trouble, trouble_write) = os.pipe(), os.pipe()
        parent = os.getpid()
        self.pid = os.fork()
        if self.pid == 0:
            os.close(release)  # or the child would never see the end of file of a lost supervisor
            run_child(self.order, self.folder, release_read, trouble_write, parent)
        os.close(release_read)
        os.close(trouble_write)
        self.folder.write(ProcessRecord(self.pid, os.getsid(0), time.time()))
        os.write(release, b"g")
        os.close(release)
        message = os.read(trouble, 4096).decode(errors="replace")  # empty once the command is executed
        os.close(trouble)
        return message

    def watch(self) -> str:
        """Wait for the command's end, the deadline or a request; returns which came first."""
        while True:
            self.reap()
            if self.status is not None:
                return "exited"
            if self.asked or self.folder.to_terminate:
                return "terminated"
            self.deadline = self.folder.deadline or self.deadline
            left = self.deadline - time.time()
            if left <= 0:
                return "deadline"
            self.pause(min(TICK, left))

    def finish(self) -> int | None:
        """End the whole group, and what has left it. Returns the command's exit code."""
        grace = self.order.grace if self.status is None else min(self.order.grace, LEFTOVER_GRACE)
        self.signal_group(signal.SIGTERM)
        end = time.monotonic() + grace
        while self.signal_group(0) and (left := end - time.monotonic()) > 0:
            self.pause(min(0.05, left))
            self.reap()
        while self.signal_group(signal.SIGKILL):
            self.pause(0.02)
            self.reap()
        while self.reap():  # adopted orphans that had left the group
            for orphan in processes.children(os.getpid()):
                os.kill(orphan.pid, signal.SIGKILL)
            self.pause(0.02)
        return None if self.status is None else os.waitstatus_to_exitcode(self.status)

    def signal_group(self, number: int) -> bool:
        """Signal the group; False when nobody is left in it."""
        try:
            os.killpg(self.pid, number)
        except ProcessLookupError:
            return False
        except PermissionError:  # macOS says so of a group of zombies
            return bool(processes.members(self.pid, os.getsid(0)))
        return True

    def reap(self) -> bool:
        """Collect ended children; False when there is no child any more."""
        try:
            while True:
                pid, status = os.waitpid(-1, os.WNOHANG)
                if pid == 0:
                    return True
                if pid == self.pid:
                    self.status = status
        except ChildProcessError:
            return False

    def pause(self, seconds: float) -> None:
        """Wait for a signal, at most ``seconds``."""
        if select.select([self.wake], [], [], seconds)[0]:
            os.read(self.wake, 4096)


def supervise(folder: MachineFolder, order: Order) -> None:
    """Run the command to its end and record it."""
    supervisor = Supervisor(folder, order)
    message = supervisor.start()
    reason = "not_started" if message else supervisor.watch()
    code = supervisor.finish()
    folder.write(ExitRecord(reason, None if message else code, time.time(), message))


def may_start(folder: MachineFolder) -> bool:
    """Whether the command has never run and is still wanted."""
    return not folder.read(ProcessRecord) and not folder.read(ExitRecord) and not folder.to_terminate


def main(arguments: list[str]) -> int:
    """Take the lock, go to the background, supervise. Exit codes: 0 supervised, 2 nothing to supervise."""
    folder = MachineFolder(Path(arguments[0]))
    order = folder.read(Order)
    if order is None:
        print(f"{folder.path} holds no order", file=sys.stderr)  # noqa: T201 - the launcher reads it
        return 2
    lock = os.open(folder.lock, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return 0  # another supervisor stands here
    if not may_start(folder):
        return 0
    watched, tell = os.pipe()
    if os.fork() > 0:
        os.close(tell)
        return 0 if os.read(watched, 1) == b"w" else 2
    os.close(watched)
    os.setsid()
    me = processes.look(os.getpid())
    if me is None:
        return 2
    folder.write(SupervisorRecord(me.pid, me.birth))
    # Whoever marks the machine for its end *after* this look finds our record, and wakes us.
    if not folder.to_terminate:
        os.write(tell, b"w")
        os.close(tell)
        quiet(folder)
        supervise(folder, order)
    return 0


def quiet(folder: MachineFolder) -> None:
    """Let go of the launcher's standard streams; our own troubles go to ``supervisor.log``."""
    os.dup2(os.open(os.devnull, os.O_RDWR), 0)
    log = os.open(folder.path / "supervisor.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.dup2(log, 1)
    os.dup2(log, 2)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
