"""TensorBoard event files, written without TensorFlow.

A file is a sequence of records (length, masked CRC-32C of it, an ``Event`` message, masked CRC-32C of that),
see ``record_writer.h`` and ``event.proto`` in TensorFlow. Each telling makes a file of its own, named by its
first step, at once and whole: told again, it is the same file. TensorBoard reads a folder's files one after
the other.
"""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Sequence
from pathlib import Path

from graftwork.core.ids import slug
from graftwork.runs.documents import Metrics
from graftwork.trackers.port import Ending, Subject, values

_VERSION = b"brain.Event:2"
_CASTAGNOLI = 0x82F63B78
_MASK = 0xA282EAD8


class TensorBoard:
    """A folder that TensorBoard is pointed at: ``<folder>/<organization>/<project>/<name>``."""

    name = "tensorboard"

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    async def tell(self, subject: Subject, metrics: Sequence[Metrics]) -> str:
        """See ``Tracker.tell``."""
        fresh = [event for event in metrics if event.step > subject.step]
        folder = self._folder.joinpath(*(slug(part) or "_" for part in subject.group.split("/")))
        folder /= slug(subject.name) or slug(subject.job_id)
        if fresh:
            await asyncio.to_thread(_write, folder, subject.started_at, fresh)
        return str(folder)

    async def end(self, subject: Subject, ending: Ending, at: float) -> None:
        """See ``Tracker.end``: event files have no word for it."""


def _write(folder: Path, started_at: float, metrics: Sequence[Metrics]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"events.out.tfevents.{int(started_at):010d}.graftwork.{metrics[0].step:09d}"
    data = record(_double(1, metrics[0].at) + _bytes(3, _VERSION))
    data += b"".join(record(event_of(event)) for event in metrics)
    part = path.with_name(f".{path.name}.part")
    part.write_bytes(data)
    part.replace(path)


def event_of(metrics: Metrics) -> bytes:
    """One step as an ``Event``: wall time (1), step (2), summary (5) of values (1: tag 1, number 2)."""
    summary = b"".join(
        _bytes(1, _bytes(1, tag.encode()) + b"\x15" + struct.pack("<f", value))
        for tag, value in values(metrics).items()
    )
    return _double(1, metrics.at) + b"\x10" + _varint(metrics.step) + _bytes(5, summary)


def record(data: bytes) -> bytes:
    """A message as a record."""
    length = struct.pack("<Q", len(data))
    return length + struct.pack("<I", _masked(length)) + data + struct.pack("<I", _masked(data))


def crc32c(data: bytes) -> int:
    """CRC-32C (Castagnoli)."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc = _TABLE[(crc ^ byte) & 0xFF] ^ (crc >> 8)
    return crc ^ 0xFFFFFFFF


def _table() -> list[int]:
    table: list[int] = []
    for byte in range(256):
        value = byte
        for _ in range(8):
            value = value >> 1 ^ (_CASTAGNOLI if value & 1 else 0)
        table.append(value)
    return table


_TABLE = _table()


def _masked(data: bytes) -> int:
    crc = crc32c(data)
    return ((crc >> 15 | crc << 17) + _MASK) & 0xFFFFFFFF


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _bytes(field: int, data: bytes) -> bytes:
    return bytes([field << 3 | 2]) + _varint(len(data)) + data


def _double(field: int, value: float) -> bytes:
    return bytes([field << 3 | 1]) + struct.pack("<d", value)
