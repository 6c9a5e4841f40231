"""Bringing a database to the newest revision of the schema, one process at a time."""

from __future__ import annotations

from pathlib import Path

from alembic import command
from alembic.config import Config
from sqlalchemy import Connection, text

_LOCK = 0x67726166
"""Number of the advisory lock that PostgreSQL gives to one upgrade at a time ("graf")."""


def configuration(conn: Connection) -> Config:
    """Alembic's settings for the migrations of this package on an open connection."""
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations").replace("%", "%%"))
    config.attributes["connection"] = conn
    return config


def upgrade(conn: Connection) -> None:
    """Upgrade to the newest revision in the open transaction (which holds SQLite's write lock)."""
    if conn.dialect.name == "postgresql":
        conn.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _LOCK})
    command.upgrade(configuration(conn), "head")
