"""``graft adapter``: versions, aliases, promotion and rollback."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from cyclopts import App

from graftwork.cli.connection import Server, connect
from graftwork.cli.export import export, push
from graftwork.cli.files import unpack
from graftwork.cli.output import Column, put, put_json, say, table, when
from graftwork.cli.watch import gate_lines

app = App(
    name="adapter",
    help="List adapters and versions, promote and roll back, export and push.",
    help_format="plaintext",
)

app.command(export)
app.command(push)

_COLUMNS = [
    Column("name", "adapter"),
    Column("base", "base"),
    Column("versions", "versions", right=True),
    Column("production", "production"),
    Column("created", "created"),
]


@app.command
def ls(*, json: bool = False, quiet: bool = False) -> None:
    """List adapters."""
    adapters = connect().get("/api/adapters")["data"]
    if json:
        put_json(adapters)
        return
    rows = [
        {
            "name": adapter["name"],
            "base": adapter["base"],
            "versions": len(adapter["versions"]),
            "production": _live(adapter),
            "created": when(adapter["created_at"]),
        }
        for adapter in adapters
    ]
    table(rows, _COLUMNS, quiet=quiet)
    if not adapters:
        say("No adapters yet. Train one: graft train data.jsonl --base seedling --suffix support")


def _live(adapter: dict[str, Any]) -> str | None:
    for alias in adapter["aliases"]:
        if alias["name"] == "production":
            return f"{adapter['name']}@{alias['version']}"
    return None


@app.command
def show(adapter: str, /, *, json: bool = False) -> None:
    """An adapter's versions, aliases and moves; of `support@3`, the version's receipt.

    Parameters
    ----------
    adapter:
        Name of an adapter, or adapter@number for one version.
    """
    name, _, number = adapter.partition("@")
    server = connect()
    if number:
        version = server.get(f"/api/adapters/{name}/versions/{number}")
        put_json(version) if json else _show_version(version)
        return
    found = server.get(f"/api/adapters/{name}")
    if json:
        put_json(found)
        return
    put(f"{found['name']}  on {found['base']}")
    for alias in found["aliases"]:
        put(f"  {found['name']}@{alias['name']} -> @{alias['version']}  (move {alias['generation']})")
    for version in found["versions"]:
        made = when(version["created_at"])
        put(f"  @{version['number']}  {version['verdict']:<12}  {made}  {version['model']}")
    for move in found["moves"]:
        target = f"{move['alias']} -> @{move['version']}"
        put(f"  {when(move['at'])}  {target}  by {move['actor']}: {move['reason']}")


def _show_version(version: dict[str, Any]) -> None:
    put(f"{version['adapter']}@{version['number']}  {version['model']}")
    put(f"  id {version['id']}")
    for line in gate_lines(version["gate"]) if version.get("gate") else []:
        put("  " + line)
    for key, value in (version["manifest"].get("receipt") or {}).items():
        if not isinstance(value, dict | list):
            put(f"  {key}: {value}")


@app.command
def download(version: str, /, *, to: Path | None = None) -> None:
    """Fetch a version's files, in PEFT's format; the folder they are in is printed.

    Parameters
    ----------
    version:
        The version, as adapter@number; a name alone is its production version.
    to:
        The folder for the files, made if need be; adapter-number if left out.
    """
    server = connect()
    name, number = numbered(server, version)
    with tempfile.TemporaryFile() as whole:
        server.download(f"/api/adapters/{name}/versions/{number}/download", whole)
        folder = unpack(whole, to or Path(f"{name}-{number}"))
    say(f"{name}@{number} is a PEFT adapter: PeftModel.from_pretrained(base, {str(folder)!r})")
    put(str(folder))


def numbered(server: Server, version: str) -> tuple[str, int]:
    """Adapter and number meant by ``support@3``, ``support@production`` or ``support``."""
    name, _, which = version.partition("@")
    if which.isdigit():
        return name, int(which)
    which = which or "production"
    for alias in server.get(f"/api/adapters/{name}")["aliases"]:
        if alias["name"] == which:
            return name, alias["version"]
    from graftwork.core.errors import NotFound

    raise NotFound(
        f"The adapter {name!r} has no alias {which!r}.",
        fix=f"Name a version, such as {name}@1; `graft adapter show {name}` lists them.",
        code="version_not_found",
    )


@app.command
def promote(
    version: str, /, *, alias: str = "production", force: bool = False, reason: str | None = None
) -> None:
    """Move an alias to a version that passed its gate.

    Parameters
    ----------
    version:
        The version, as adapter@number.
    alias:
        The alias to move.
    force:
        Move it although the gate did not pass; needs --reason, and is written down.
    """
    name, _, number = version.partition("@")
    if not number.isdigit():
        from graftwork.core.errors import InvalidRequest

        raise InvalidRequest(
            f"{version!r} names no version.", fix="Say it as support@3.", code="invalid_version"
        )
    body = {"version": int(number), "alias": alias, "force": force, "reason": reason}
    moved = connect().post(f"/api/adapters/{name}/promote", {k: v for k, v in body.items() if v is not None})
    say(f"{name}@{alias} is now @{moved['version']}.")
    put(f"{name}@{moved['version']}")


@app.command
def rollback(adapter: str, /, *, alias: str = "production", reason: str | None = None) -> None:
    """Move an alias back to the version it pointed at before."""
    body = {"alias": alias, "reason": reason}
    moved = connect().post(
        f"/api/adapters/{adapter}/rollback", {k: v for k, v in body.items() if v is not None}
    )
    say(f"{adapter}@{alias} is now @{moved['version']}.")
    put(f"{adapter}@{moved['version']}")
