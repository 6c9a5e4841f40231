"""``graft doctor``: is this machine fit, and does the server feel well?"""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
from dataclasses import dataclass

from graftwork import __version__
from graftwork.cli.connection import connect, data_folder
from graftwork.cli.output import Column, put_json, say, table
from graftwork.core.errors import GraftworkError


@dataclass(frozen=True)
class Check:
    """One thing looked at: ``ok``, ``warn`` or ``fail``, what was seen, what to do."""

    name: str
    state: str
    seen: str
    fix: str = ""


def doctor(*, json: bool = False) -> int:
    """Check this machine and the server; exit code 1 if something is broken."""
    checks = [*_machine(), *_server()]
    rows = [{"name": c.name, "state": c.state, "seen": c.seen, "fix": c.fix} for c in checks]
    columns = [
        Column("name", "check"),
        Column("state", "state"),
        Column("seen", "seen"),
        Column("fix", "what to do"),
    ]
    if json:
        put_json(rows)
    else:
        table(rows, columns)
    failed = [check for check in checks if check.state == "fail"]
    if failed:
        say(f"{len(failed)} of {len(checks)} checks failed.")
    return 1 if failed else 0


def _machine() -> list[Check]:
    folder = data_folder()
    existing = folder if folder.exists() else folder.parent
    free = shutil.disk_usage(existing).free / 2**30
    return [
        Check("graftwork", "ok", f"{__version__} on Python {platform.python_version()}"),
        Check("cores", "ok", str(os.cpu_count())),
        Check(
            "disk",
            "ok" if free > 5 else "warn",
            f"{free:.0f} GiB free at {existing}",
            "" if free > 5 else "Free some.",
        ),
        _package("torch", "Training and the built-in engine need it: pip install 'graftwork[train]'"),
        _package("transformers", "Training and the built-in engine need it: pip install 'graftwork[train]'"),
        _package("psycopg", "Only for PostgreSQL: pip install 'graftwork[postgres]'"),
    ]


def _package(name: str, fix: str) -> Check:
    if importlib.util.find_spec(name):
        from importlib.metadata import version

        return Check(name, "ok", version(name))
    return Check(name, "warn", "not installed", fix)


def _server() -> list[Check]:
    try:
        server = connect()
        answer = server.get("/api/doctor")
    except GraftworkError as error:
        state = "warn" if error.code == "no_server" else "fail"
        return [Check("server", state, error.message, error.fix)]
    return [
        Check(f"server: {c['name']}", c["state"], c["seen"], c.get("fix") or "") for c in answer["checks"]
    ]
