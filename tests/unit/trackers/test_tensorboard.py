"""Event files, record by record. TensorBoard itself reads them in the lane."""

from __future__ import annotations

import struct
from pathlib import Path

import trackedruns

from graftwork.runs.documents import Metrics
from graftwork.trackers.port import Subject
from graftwork.trackers.tensorboard import TensorBoard, crc32c


def step(number: int) -> Metrics:
    return trackedruns.step(number, epoch=0.5, tokens=300)


def subject(step: int = 0) -> Subject:
    return trackedruns.subject(group="Acme Inc/main", parameters={}, step=step)


def records(path: Path) -> list[bytes]:
    data, found = path.read_bytes(), []
    while data:
        (length,) = struct.unpack("<Q", data[:8])
        found.append(data[12 : 12 + length])
        data = data[16 + length :]
    return found


def test_the_checksum_is_crc32c():
    assert crc32c(b"123456789") == 0xE3069283  # the check value of its definition
    assert crc32c(bytes(32)) == 0x8A9136AA  # RFC 3720, B.4


async def test_each_telling_is_a_file_of_its_own_and_the_same_again_changes_nothing(tmp_path: Path):
    tracker = TensorBoard(tmp_path)
    folder = Path(await tracker.tell(subject(), [step(1), step(2)]))
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    await tracker.tell(subject(), [step(1), step(2)])
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    await tracker.tell(subject(step=2), [step(2), step(3)])
    files = sorted(folder.iterdir())
    assert folder == tmp_path / "acme-inc" / "main" / "support-1"
    assert [len(records(path)) for path in files] == [3, 2]
    assert b"brain.Event:2" in records(files[0])[0]
    assert b"train/loss" in records(files[1])[1]
