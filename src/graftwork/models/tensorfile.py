"""Safetensors files of base models, without torch: read through a map of the file, written in a stream.

Format: https://huggingface.co/docs/safetensors (8 bytes N, N bytes of JSON, the tensors back to back).
Unlike ``registry.safetensors``, which judges strangers' adapters, this reads any type of number, and never
more of a file at once than is asked for.
"""

from __future__ import annotations

import json
import math
import mmap
import os
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from graftwork.core.errors import InvalidRequest

Floats = NDArray[np.float32]

FLOATS = {"F64": 8, "F32": 4, "BF16": 2, "F16": 2}
"""Types whose numbers ``decode`` and ``encode`` know, with their size in bytes."""
_MAX_HEADER = 1 << 30


@dataclass(frozen=True, slots=True)
class Place:
    """Where one tensor lies in its file: bytes [start, end) from the file's beginning."""

    dtype: str
    shape: tuple[int, ...]
    start: int
    end: int


class TensorFile:
    """A safetensors file, mapped. A context manager; what it hands out must not outlive it.

    Attributes:
        places: tensors by name, in the order in which they lie.
        header: the bytes before the first tensor; a file with the same tensors may begin with them.
    """

    def __init__(self, path: Path) -> None:
        """Open and read the header.

        Raises:
            InvalidRequest: it cannot be read, or is no safetensors file (``model_folder_invalid``).
        """
        self.path = path
        try:
            with path.open("rb") as file:
                self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            self.header, self.places = _read(self._map)
        except (OSError, ValueError, KeyError, TypeError, struct.error) as error:
            raise InvalidRequest(
                f"{path.name} is no readable safetensors file: {error}.",
                fix="Download or export it again.",
                code="model_folder_invalid",
            ) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._map.close()

    def raw(self, name: str, start: int = 0, end: int | None = None) -> bytes:
        """Bytes [start, end) of a tensor, counted from its first."""
        place = self.places[name]
        last = place.end if end is None else place.start + end
        return self._map[place.start + start : last]

    def floats(self, name: str) -> Floats:
        """A whole tensor as float32, in its shape.

        Raises:
            ValueError: its type is not one of ``FLOATS``.
        """
        place = self.places[name]
        return decode(self.raw(name), place.dtype).reshape(place.shape)


def decode(data: bytes, dtype: str) -> Floats:
    """Numbers of one of ``FLOATS`` as float32, flat. bfloat16 is the upper half of a float32."""
    if dtype == "BF16":
        return (np.frombuffer(data, "<u2").astype(np.uint32) << 16).view(np.float32)
    if dtype not in FLOATS:
        raise ValueError(f"numbers of type {dtype}")
    return np.frombuffer(data, f"<f{FLOATS[dtype]}").astype(np.float32)


def encode(values: Floats, dtype: str) -> bytes:
    """float32 to one of ``FLOATS``, rounded to nearest, ties to even. Overflow gives infinity."""
    if dtype == "BF16":
        bits = np.ascontiguousarray(values).view(np.uint32)
        rounded = ((bits + (0x7FFF + ((bits >> 16) & 1))) >> 16).astype("<u2")
        return np.where(np.isnan(values), np.uint16(0x7FC0), rounded).astype("<u2").tobytes()
    with np.errstate(over="ignore"):
        return values.astype(f"<f{FLOATS[dtype]}").tobytes()


def _read(data: mmap.mmap) -> tuple[bytes, dict[str, Place]]:
    (length,) = struct.unpack("<Q", data[:8])
    if length > min(_MAX_HEADER, len(data) - 8):
        raise ValueError("its header is longer than the file")
    base = 8 + length
    fields: dict[str, Any] = json.loads(data[8:base])
    fields.pop("__metadata__", None)
    found = [
        (name, Place(entry["dtype"], tuple(entry["shape"]), *(base + at for at in entry["data_offsets"])))
        for name, entry in fields.items()
    ]
    found.sort(key=lambda item: item[1].start)
    expected = base
    for name, place in found:
        if place.start != expected or place.end < place.start:
            raise ValueError(f"there is a gap or an overlap before {name}")
        expected = place.end
    if expected != len(data):
        raise ValueError("its size does not match its header")
    return data[:base], dict(found)


def write_tensors(
    path: Path, tensors: Mapping[str, tuple[str, tuple[int, ...], Callable[[], Floats]]]
) -> None:
    """Write a safetensors file, one tensor in memory at a time.

    Args:
        tensors: by name: type (one of ``FLOATS``), shape, and what gives the numbers in that shape.
    """
    fields: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, (dtype, shape, _) in tensors.items():
        start, end = end, end + math.prod(shape) * FLOATS[dtype]
        fields[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [start, end]}
    header = json.dumps(fields).encode()
    header += b" " * (-len(header) % 8)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(header)) + header)
        for dtype, shape, make in tensors.values():
            numbers = make()
            if numbers.shape != shape:
                raise ValueError(f"{list(numbers.shape)} and not {list(shape)}")
            file.write(encode(numbers, dtype))
        file.flush()
        os.fsync(file.fileno())
