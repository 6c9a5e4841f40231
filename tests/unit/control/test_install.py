"""A data folder: one server at a time, secrets for one pair of eyes."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest
from controlhouse import House

from graftwork.control.install import Secrets, install_id, locked
from graftwork.core.errors import Conflict, InvalidRequest


def test_two_servers_never_share_a_data_folder(tmp_path: Path):
    with locked(tmp_path / "data"):
        with pytest.raises(Conflict) as refused, locked(tmp_path / "data"):
            pass
        assert refused.value.code == "data_dir_in_use"
        assert str(os.getpid()) in refused.value.message
    with locked(tmp_path / "data"):
        pass


def test_a_folder_that_cannot_be_made_is_said_plainly(tmp_path: Path):
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(InvalidRequest) as refused, locked(tmp_path / "file" / "data"):
        pass
    assert refused.value.code == "data_dir_unusable"
    assert refused.value.fix


def test_secrets_are_made_once_and_only_their_owner_reads_them(tmp_path: Path):
    with locked(tmp_path / "data"):
        pass
    first, second = Secrets(tmp_path / "data"), Secrets(tmp_path / "data")
    assert len(first.pepper()) == 32
    assert first.pepper() == second.pepper()
    first.write("first_key", "gw_x")
    assert second.read("first_key") == "gw_x"
    assert second.read("other") is None
    folder = tmp_path / "data" / "secrets"
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()} == {0o600}


async def test_an_installation_keeps_its_id(house: House):
    async with house.store.begin() as tx:
        first = await install_id(tx)
    async with house.store.begin() as tx:
        assert await install_id(tx) == first
    assert first.isalnum()
    assert first == first.lower()
