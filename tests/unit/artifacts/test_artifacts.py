"""Blobs: content-addressed, create-only, verified on reading, all or nothing."""

import asyncio
import hashlib
from pathlib import Path

import pytest
from obstore.store import MemoryStore

from graftwork.artifacts import Artifacts
from graftwork.artifacts.blobs import RemoteBlobs
from graftwork.core.errors import InvalidRequest, PlatformError


def sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def blob_files(root: Path) -> list[Path]:
    return [path for path in (root / "sha256").rglob("*") if path.is_file()]


async def pieces(*parts: bytes):
    for part in parts:
        yield part


@pytest.fixture(params=["folder", "object store"])
def artifacts(request: pytest.FixtureRequest, tmp_path: Path) -> Artifacts:
    remote = RemoteBlobs(MemoryStore()) if request.param == "object store" else None
    return Artifacts(tmp_path / "blobs", blobs=remote)


async def test_what_is_put_is_got_under_its_hash(artifacts: Artifacts, tmp_path: Path):
    (tmp_path / "file").write_bytes(b"from a file")
    assert await artifacts.put(b"hello") == sha(b"hello")
    assert await artifacts.put_file(tmp_path / "file") == sha(b"from a file")
    assert await artifacts.put_stream(pieces(b"a", b"", b"bc"), 3) == (sha(b"abc"), 3)
    assert await artifacts.put(b"") == sha(b"")
    for data in (b"hello", b"from a file", b"abc", b""):
        assert await artifacts.exists(sha(data))
        assert await artifacts.get(sha(data)) == data
        assert b"".join([chunk async for chunk in artifacts.stream(sha(data))]) == data
    assert not await artifacts.exists(sha(b"else"))
    with pytest.raises(PlatformError) as caught:
        await artifacts.get(sha(b"else"))
    assert caught.value.code == "artifact_missing"


async def test_large_blobs_come_back_in_chunks(artifacts: Artifacts):
    data = bytes(range(256)) * 20_000
    digest, size = await artifacts.put_stream(
        pieces(*(data[i : i + 70_001] for i in range(0, len(data), 70_001))), 1 << 30
    )
    assert (digest, size) == (sha(data), len(data))
    chunks = [chunk async for chunk in artifacts.stream(digest)]
    assert len(chunks) > 1
    assert b"".join(chunks) == data


async def test_the_same_content_at_the_same_time_is_one_blob(tmp_path: Path):
    artifacts = Artifacts(tmp_path)
    digests = await asyncio.gather(*(artifacts.put(b"same") for _ in range(8)))
    assert set(digests) == {sha(b"same")}
    assert len(blob_files(tmp_path)) == 1
    assert list((tmp_path / "spool").iterdir()) == []


async def test_a_blob_is_never_overwritten(tmp_path: Path):
    artifacts = Artifacts(tmp_path)
    await artifacts.put(b"first")
    [file] = blob_files(tmp_path)
    before = (file.stat().st_ino, file.stat().st_mtime_ns)
    await artifacts.put(b"first")
    assert (file.stat().st_ino, file.stat().st_mtime_ns) == before
    assert file.stat().st_mode & 0o777 == 0o400


async def test_a_damaged_blob_is_refused(tmp_path: Path):
    artifacts = Artifacts(tmp_path)
    digest = await artifacts.put(b"x" * 3_000_000)
    [file] = blob_files(tmp_path)
    file.chmod(0o644)
    with file.open("r+b") as damaged:
        damaged.seek(1_500_000)
        damaged.write(b"y")
    with pytest.raises(PlatformError) as caught:
        await artifacts.get(digest)
    assert caught.value.code == "artifact_corrupt"
    received = 0
    with pytest.raises(PlatformError, match="damaged"):
        async for chunk in artifacts.stream(digest):
            received += len(chunk)
    assert received < 3_000_000  # a receiver never gets a whole damaged file
    with pytest.raises(PlatformError, match="damaged"):
        await artifacts.materialize({"adapter": digest}, tmp_path / "out")
    assert not (tmp_path / "out").exists()


async def test_a_stream_over_the_cap_leaves_nothing(tmp_path: Path):
    artifacts = Artifacts(tmp_path)
    with pytest.raises(InvalidRequest) as caught:
        await artifacts.put_stream(pieces(b"a" * 2_000_000, b"b" * 2_000_000), 3_000_000)
    assert (caught.value.code, caught.value.param) == ("file_too_large", "file")
    assert blob_files(tmp_path) == list((tmp_path / "spool").iterdir()) == []


async def test_a_stream_that_breaks_leaves_nothing(tmp_path: Path):
    async def broken():
        yield b"half"
        raise ConnectionResetError

    artifacts = Artifacts(tmp_path)
    with pytest.raises(ConnectionResetError):
        await artifacts.put_stream(broken(), 100)
    assert blob_files(tmp_path) == list((tmp_path / "spool").iterdir()) == []


async def test_a_full_disk_is_said_clearly_and_leaves_nothing(tmp_path: Path):
    artifacts = Artifacts(tmp_path, opener=lambda path: Path("/dev/full").open("wb"))  # noqa: SIM115
    for attempt in (artifacts.put(b"x" * 100_000), artifacts.put_stream(pieces(b"x" * 100_000), 1 << 20)):
        with pytest.raises(PlatformError) as caught:
            await attempt
        assert caught.value.code == "storage_full"
        assert caught.value.fix
    assert blob_files(tmp_path) == []


async def test_materialize_makes_a_read_only_folder_at_once(artifacts: Artifacts, tmp_path: Path):
    files = {"a.json": await artifacts.put(b"{}"), "w.safetensors": await artifacts.put(b"weights")}
    target = tmp_path / "deep" / "adapter"
    made = await asyncio.gather(*(artifacts.materialize(files, target) for _ in range(4)))
    assert set(made) == {target}
    assert {path.name: path.read_bytes() for path in target.iterdir()} == {
        "a.json": b"{}",
        "w.safetensors": b"weights",
    }
    assert all(path.stat().st_mode & 0o777 == 0o400 for path in target.iterdir())
    assert [path.name for path in target.parent.iterdir()] == ["adapter"]  # no scratch folder is left


async def test_materialize_refuses_a_folder_that_holds_something_else(artifacts: Artifacts, tmp_path: Path):
    files = {"a": await artifacts.put(b"1")}
    for name, content in (("a", b"2"), ("b", b"1")):
        target = tmp_path / f"holds-{name}"
        target.mkdir()
        (target / name).write_bytes(content)
        with pytest.raises(PlatformError, match="does not hold"):
            await artifacts.materialize(files, target)


@pytest.mark.parametrize("name", ["../a", "a/b", "", ".hidden", "/etc/passwd", "a\x00"])
async def test_names_cannot_leave_the_folder(artifacts: Artifacts, tmp_path: Path, name: str):
    digest = await artifacts.put(b"1")
    with pytest.raises(PlatformError, match="is not a name"):
        await artifacts.materialize({name: digest}, tmp_path / "out")


async def test_digests_that_are_none_are_refused(artifacts: Artifacts):
    for bad in ("", "abc", "../../etc/passwd", "A" * 64):
        with pytest.raises(PlatformError, match="is not a sha256"):
            await artifacts.get(bad)


def test_the_digest_of_files_depends_on_names_and_contents_not_on_order():
    one = Artifacts.digest_of({"a": "1", "b": "2"})
    assert one == Artifacts.digest_of({"b": "2", "a": "1"})
    assert len({one, Artifacts.digest_of({"a": "1"}), Artifacts.digest_of({"a": "2", "b": "1"})}) == 3


async def test_only_the_owner_may_read_what_is_stored(tmp_path):
    root = tmp_path / "artifacts"
    artifacts = Artifacts(root)
    digest = await artifacts.put(b"secret rows")
    folder = await artifacts.materialize({"rows": digest}, tmp_path / "adapters" / "one")
    assert root.stat().st_mode & 0o777 == 0o700
    assert (root / "spool").stat().st_mode & 0o777 == 0o700
    for path in [*root.rglob(digest), folder / "rows"]:
        assert path.stat().st_mode & 0o777 == 0o400
    for path in (folder, folder.parent):
        assert path.stat().st_mode & 0o777 == 0o700
