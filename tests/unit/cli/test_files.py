"""Files written for the user: whole, and never over something else."""

import io
import zipfile

import pytest

from graftwork.cli.files import unpack
from graftwork.core.errors import Conflict, PlatformError


def a_zip(**files: bytes) -> io.BytesIO:
    whole = io.BytesIO()
    with zipfile.ZipFile(whole, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return whole


def test_files_are_written_and_equal_ones_are_left_alone(tmp_path):
    folder = tmp_path / "a" / "b"
    assert unpack(a_zip(one=b"1", two=b"22"), folder) == folder
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == {"one": b"1", "two": b"22"}
    (folder / "two").unlink()
    unpack(a_zip(one=b"1", two=b"22"), folder)
    assert (folder / "two").read_bytes() == b"22"


@pytest.mark.parametrize("there", [b"x", b"longer"])
def test_other_content_is_not_overwritten_and_nothing_is_written(tmp_path, there):
    (tmp_path / "two").write_bytes(there)
    with pytest.raises(Conflict, match="other content"):
        unpack(a_zip(one=b"1", two=b"2"), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["two"]
    assert (tmp_path / "two").read_bytes() == there


@pytest.mark.parametrize("name", ["../out", "/out", "a/b", ".."])
def test_a_name_that_leads_elsewhere_is_refused(tmp_path, name):
    with pytest.raises(PlatformError):
        unpack(a_zip(**{name: b"1"}), tmp_path / "in")
    assert not list(tmp_path.rglob("out"))


def test_what_is_no_zip_is_refused(tmp_path):
    with pytest.raises(PlatformError):
        unpack(io.BytesIO(b"half a file"), tmp_path)
