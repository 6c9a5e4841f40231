"""Processes of this host: who lives, told apart from a later process with the same number.

A process is known by its pid *and* its birth (boot and start time), a process group by its number *and* its
session. Reads ``/proc`` where there is one and asks ``ps`` elsewhere. Standard library only: the
supervisor imports this.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

PROC = Path("/proc")


@dataclass(frozen=True, slots=True)
class Process:
    """One live process; zombies are not live."""

    pid: int
    parent: int
    group: int
    session: int | None
    """None where the platform does not say."""
    birth: str
    """Differs between two processes that bear the same pid, across reboots too."""


@cache
def _boot() -> str:
    return (PROC / "sys/kernel/random/boot_id").read_text().strip()


def has_proc() -> bool:
    """Whether this platform has Linux's ``/proc``."""
    return (PROC / "self/stat").exists()


def _from_proc(pid: int) -> Process | None:
    try:
        text = (PROC / str(pid) / "stat").read_text()
    except OSError:
        return None
    # The command name (field 2) may hold spaces and parentheses; the fields after its last one are plain.
    fields = text.rpartition(")")[2].split()
    if fields[0] in "ZX":
        return None
    return Process(pid, int(fields[1]), int(fields[2]), int(fields[3]), f"{_boot()}:{fields[19]}")


def parse_ps(text: str) -> list[Process]:
    """Live processes of ``ps -o pid=,ppid=,pgid=,stat=,lstart=``; the session is not known there."""
    found: list[Process] = []
    for line in text.splitlines():
        pid, parent, group, state, *birth = line.split()
        if not state.startswith("Z"):
            found.append(Process(int(pid), int(parent), int(group), None, " ".join(birth)))
    return found


def _ps(*selection: str) -> list[Process]:
    command = ["ps", *selection, "-o", "pid=", "-o", "ppid=", "-o", "pgid=", "-o", "stat=", "-o", "lstart="]
    return parse_ps(subprocess.run(command, capture_output=True, text=True, check=False).stdout)


def look(pid: int) -> Process | None:
    """The live process ``pid``, or None."""
    if has_proc():
        return _from_proc(pid)
    return next(iter(_ps("-p", str(pid))), None)


def everyone() -> Iterator[Process]:
    """All live processes of this host."""
    if not has_proc():
        yield from _ps("-A")
        return
    for entry in PROC.iterdir():
        if entry.name.isdigit() and (process := _from_proc(int(entry.name))) is not None:
            yield process


def lives(pid: int, birth: str) -> bool:
    """Whether the very process ``pid`` born at ``birth`` lives, and not a later one with its number."""
    process = look(pid)
    return process is not None and process.birth == birth


def members(group: int, session: int) -> list[Process]:
    """The live processes of a group, in this session (where the platform knows sessions)."""
    return [p for p in everyone() if p.group == group and p.session in (session, None)]


def children(parent: int) -> list[Process]:
    """The live children of a process."""
    return [p for p in everyone() if p.parent == parent]
