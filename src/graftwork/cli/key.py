"""``graft key``: the project's API keys."""

from __future__ import annotations

from cyclopts import App

from graftwork.cli.connection import connect
from graftwork.cli.output import Column, put, put_json, say, table, when

app = App(name="key", help="Create, list and revoke API keys.", help_format="plaintext")


@app.command
def create(name: str, /, *, json: bool = False) -> None:
    """Make a key. Its text is shown once, and never again."""
    made = connect().post("/api/keys", {"name": name})
    if json:
        put_json(made)
        return
    say(f"Key {made['id']} ({made['name']}). Keep it now; it is not shown again.")
    put(made["key"])


@app.command
def ls(*, json: bool = False, quiet: bool = False) -> None:
    """List keys."""
    keys = connect().get("/api/keys")["data"]
    if json:
        put_json(keys)
        return
    rows = [
        {
            **key,
            "created": when(key["created_at"]),
            "used": when(key["last_used_at"]),
            "revoked": when(key["revoked_at"]),
        }
        for key in keys
    ]
    columns = [
        Column("id", "key"),
        Column("name", "name"),
        Column("created", "created"),
        Column("used", "last used"),
        Column("revoked", "revoked"),
    ]
    table(rows, columns, quiet=quiet)


@app.command
def revoke(key: str, /) -> None:
    """Revoke a key; requests with it are refused from now on."""
    connect().call("DELETE", f"/api/keys/{key}")
    say(f"{key} is revoked.")
    put(key)
