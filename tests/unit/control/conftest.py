"""A control plane for each test, on SQLite (``house``) or on both databases (``houses``)."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from controlhouse import House


@pytest.fixture
async def house(sqlite_url: str, tmp_path: Path) -> AsyncIterator[House]:
    """A control plane on SQLite."""
    built = await House.build(sqlite_url, tmp_path)
    yield built
    await built.close()


@pytest.fixture
async def both(database_url: str, tmp_path: Path) -> AsyncIterator[House]:
    """A control plane; the test runs on each kind of database."""
    built = await House.build(database_url, tmp_path)
    yield built
    await built.close()
