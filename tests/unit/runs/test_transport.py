"""The local transport: create-only, atomic, and never outside its folder."""

import errno
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from graftwork.core.errors import InvalidRequest, PlatformError
from graftwork.runs.transport import AlreadyExists, LocalTransport, open_transport


def test_create_writes_once_and_replace_overwrites(transport):
    transport.create("a/b.json", b"1")
    with pytest.raises(AlreadyExists):
        transport.create("a/b.json", b"2")
    assert transport.read("a/b.json") == b"1"
    transport.replace("a/b.json", b"3")
    assert transport.read("a/b.json") == b"3"
    assert transport.read("a/none") is None


def test_list_sees_objects_and_not_what_a_dead_writer_left(transport):
    transport.create("b/2", b"")
    transport.create("b/1", b"")
    transport.create("c", b"")
    (transport.root / ".tmp" / "half").write_bytes(b"half a fi")
    assert transport.list("") == ["b/1", "b/2", "c"]
    assert transport.list("b") == ["b/1", "b/2"]
    assert transport.list("none") == []


def test_no_temporary_file_stays_after_success_or_refusal(transport):
    transport.create("a", b"1")
    with pytest.raises(AlreadyExists):
        transport.create("a", b"2")
    transport.replace("a", b"3")
    assert list((transport.root / ".tmp").iterdir()) == []


def test_of_racing_creators_one_wins_and_its_bytes_stay(transport):
    def race(n):
        try:
            transport.create("prize", str(n).encode() * 1000)
        except AlreadyExists:
            return None
        return n

    with ThreadPoolExecutor(8) as pool:
        winners = [n for n in pool.map(race, range(8)) if n is not None]
    assert len(winners) == 1
    assert transport.read("prize") == str(winners[0]).encode() * 1000


def test_files_go_in_and_out(transport, tmp_path):
    (tmp_path / "in").write_bytes(b"x" * 3_000_000)
    transport.put_file("big", tmp_path / "in")
    with pytest.raises(AlreadyExists):
        transport.put_file("big", tmp_path / "in")
    transport.get_file("big", tmp_path / "out")
    assert (tmp_path / "out").read_bytes() == b"x" * 3_000_000
    with pytest.raises(FileNotFoundError):
        transport.get_file("none", tmp_path / "out")


@pytest.mark.parametrize(
    "path", ["", "/etc/passwd", "../x", "a/../../x", "a//b", "./a", ".tmp/x", "a\\b", "a/"]
)
def test_names_that_leave_the_folder_are_refused(transport, path):
    with pytest.raises(InvalidRequest) as caught:
        transport.create(path, b"")
    assert caught.value.code == "invalid_path"


def test_a_full_disk_is_said_in_words_and_leaves_nothing(tmp_path):
    def full(_):
        raise OSError(errno.ENOSPC, "No space left on device")

    transport = LocalTransport(tmp_path / "run", sync=full)
    for write in (transport.create, transport.replace):
        with pytest.raises(PlatformError) as caught:
            write("a", b"1")
        assert caught.value.code == "disk_full"
    assert transport.list("") == []
    assert list((tmp_path / "run" / ".tmp").iterdir()) == []


def test_open_takes_paths_and_file_urls_and_names_what_it_supports(tmp_path):
    (tmp_path / "a b").mkdir()
    for uri in (str(tmp_path / "a b"), f"file://{tmp_path}/a%20b"):
        transport = open_transport(uri)
        transport.replace("x", b"1")
        assert (tmp_path / "a b" / "x").read_bytes() == b"1"
    with pytest.raises(InvalidRequest) as caught:
        open_transport("s3://bucket/run")
    assert caught.value.code == "unsupported_transport"
    assert "file:///" in caught.value.fix


def test_what_was_written_is_on_disk_before_create_returns(tmp_path):
    synced = []
    transport = LocalTransport(
        tmp_path, sync=lambda fd: synced.append(str(Path(f"/proc/self/fd/{fd}").readlink()))
    )
    transport.create("a/b", b"1")
    assert [path.startswith(f"{tmp_path}/.tmp/") for path in synced] == [True, False, False]
    assert synced[1:] == [str(tmp_path), str(tmp_path / "a")]  # the folder's name, then the object's
