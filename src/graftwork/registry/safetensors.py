"""Reading a safetensors header strictly, without torch.

Format: https://huggingface.co/docs/safetensors ("8 bytes N, N bytes of JSON, then the tensors"). The
reference reader accepts duplicate JSON keys and any text as a tensor's name; what we serve to several engines
must mean one thing to all of them, so here every byte is accounted for: names are unique, tensors lie back to
back, nothing follows them.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

ITEM_BYTES = {"F32": 4, "F16": 2, "BF16": 2}
"""Types that adapters may have, with the size of one number."""
MAX_HEADER = 16 << 20


class Malformed(Exception):
    """The bytes are not a well-formed document; the text says why."""


@dataclass(frozen=True, slots=True)
class Tensor:
    """Where one tensor lies."""

    dtype: str
    shape: tuple[int, ...]
    start: int
    """Offset of its first byte from the beginning of the file."""
    end: int


def read_header(data: bytes) -> dict[str, Tensor]:
    """Tensors of a safetensors file by name, in the order in which they lie.

    Raises:
        Malformed: the file deviates from the format in any way.
    """
    if len(data) < 8:
        raise Malformed("it is too short")
    length = int.from_bytes(data[:8], "little")
    if length > min(MAX_HEADER, len(data) - 8):
        raise Malformed("its header is longer than the file, or too long")
    header = read_json(data[8 : 8 + length])
    if not isinstance(header, dict):
        raise Malformed("its header is not a JSON object")
    fields = cast("dict[str, Any]", header)
    _check_metadata(fields.pop("__metadata__", {}))
    base = 8 + length
    tensors = sorted(
        ((name, _tensor(name, value, base)) for name, value in fields.items()), key=lambda item: item[1].start
    )
    expected = base
    for name, tensor in tensors:
        if tensor.start != expected:
            raise Malformed(f"there is a gap or an overlap before the tensor {name!r}")
        expected = tensor.end
    if expected != len(data):
        raise Malformed("its size does not match its header")
    return dict(tensors)


def read_json(data: bytes) -> Any:
    """Strict JSON: UTF-8, no key twice in an object, no NaN.

    Raises:
        Malformed: it is not.
    """
    try:
        return json.loads(data.decode(), object_pairs_hook=_unique, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise Malformed(f"it is not JSON ({error})") from error


def _tensor(name: str, value: object, base: int) -> Tensor:
    entry = cast("dict[str, Any]", value) if isinstance(value, dict) else {}
    if set(entry) != {"dtype", "shape", "data_offsets"}:
        raise Malformed(f"the entry of the tensor {name!r} is not of the format")
    dtype, shape, offsets = entry["dtype"], _integers(entry["shape"]), _integers(entry["data_offsets"])
    if not isinstance(dtype, str) or dtype not in ITEM_BYTES:
        raise Malformed(f"the tensor {name!r} has the type {dtype}; allowed are {', '.join(ITEM_BYTES)}")
    if shape is None or not all(0 < size < 1 << 32 for size in shape):
        raise Malformed(f"the tensor {name!r} has no proper shape")
    if offsets is None or len(offsets) != 2 or offsets[0] < 0:
        raise Malformed(f"the tensor {name!r} has no proper offsets")
    first, last = offsets
    if last - first != math.prod(shape) * ITEM_BYTES[dtype]:
        raise Malformed(f"the tensor {name!r} does not have as many bytes as its shape needs")
    return Tensor(dtype, shape, base + first, base + last)


def _integers(value: object) -> tuple[int, ...] | None:
    """The value as whole numbers, if it is a list of them (true and false are none)."""
    items = cast("list[object]", value) if isinstance(value, list) else None
    if items is None or not all(type(item) is int for item in items):
        return None
    return tuple(cast("list[int]", items))


def _check_metadata(metadata: object) -> None:
    if not isinstance(metadata, dict):
        raise Malformed("its metadata is not an object")
    pairs = cast("Mapping[object, object]", metadata)
    if not all(isinstance(value, str) for value in pairs.values()):
        raise Malformed("its metadata holds something else than text")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key occurs twice")
    return found


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")
