"""Kernels in C, compiled once for this processor by a C compiler, if the machine has one.

That takes a second or two, against a minute for ``torch.compile``, so that short runs gain too; the library
is kept in the cache folder. ``GRAFTWORK_KERNELS=off`` does without. The element-wise kernels use one thread,
attention and low-rank products those of torch: with many of them, all is left to torch.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from itertools import pairwise
from pathlib import Path

import torch

SOURCES = tuple(
    Path(__file__).with_name(name)
    for name in ("kernels.c", "attend.c", "lowrank.c", "product.h", "exponential.h")
)
SETTING = "GRAFTWORK_KERNELS"
FLAGS = (
    *("-O3", "-march=native", "-shared", "-fPIC", "-fno-math-errno"),
    *("-fno-trapping-math", "-fno-signed-zeros", "-fassociative-math"),
)
"""Sums may be vectorised; NaN and infinity keep their meaning."""
MOST_THREADS = 4
WORTH = 1 << 22
"""Multiplications that are worth another thread."""
Value = torch.Tensor | int | float | None


ARGUMENTS = {
    "norm": "ppppiif",
    "norm_back": "pppppii",
    "turn": "pippppp" + "iiif",
    "turn_back": "ppippppp" + "iiii",
    "gate": "ppii",
    "gate_back": "ppii",
    "answer": "pppppii",
    "squares": "ppi",
    "attend": "pppppppp" + "i" * 12 + "f",
    "attend_back": "pppppppppppp" + "i" * 12 + "f",
    "share": "pppppppp" + "i" * 10,
    "share_back": "pppppppppp" + "i" * 11,
    "share_back_a": "pppppp" + "i" * 9,
}
"""Of each kernel: pointers, int64s, floats."""
_TYPES = {"p": ctypes.c_void_p, "i": ctypes.c_int64, "f": ctypes.c_float}


class Kernels:
    """Calls into the library: tensors go as pointers, None as null."""

    def __init__(self, library: ctypes.CDLL) -> None:
        self._calls = {name: library[name] for name in ARGUMENTS}
        for name, call in self._calls.items():
            call.argtypes = [_TYPES[letter] for letter in ARGUMENTS[name]]
            call.restype = None

    def __call__(self, name: str, *values: Value) -> None:
        """Run kernel ``name``."""
        self._calls[name](*[v.data_ptr() if isinstance(v, torch.Tensor) else v for v in values])


def spread(pieces: int, work: int, part: Callable[[int, int], None]) -> None:
    """Call ``part`` for pieces from the first to the last, shared among as many threads as torch has.

    Args:
        work: multiplications of all pieces together.
    """
    threads = max(1, min(torch.get_num_threads(), pieces, work // WORTH))
    edges = [pieces * number // threads for number in range(threads + 1)]
    others = [_pool().submit(part, *ends) for ends in pairwise(edges[1:])]
    part(*edges[:2])
    for other in others:
        other.result()


@cache
def _pool() -> ThreadPoolExecutor:
    """Threads of this process; the kernels let go of Python's lock."""
    return ThreadPoolExecutor(MOST_THREADS - 1, "graftwork-kernels")


def kernels(x: torch.Tensor) -> Kernels | None:
    """The kernels, if they can work on ``x`` here."""
    if x.dtype is not torch.float32 or x.device.type != "cpu" or torch.get_num_threads() > MOST_THREADS:
        return None
    return _loaded()


@cache
def _loaded() -> Kernels | None:
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None or os.environ.get(SETTING) == "off":
        return None
    text = b"".join(source.read_bytes() for source in SOURCES)
    key = hashlib.sha256(text + repr((FLAGS, _processor())).encode()).hexdigest()[:16]
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "graftwork" / "kernels"
    path = folder / f"{key}.so"
    try:
        if not path.exists():
            _compile(compiler, path)
        return Kernels(ctypes.CDLL(str(path)))
    except (OSError, subprocess.SubprocessError):
        return None  # torch does the same work


def _compile(compiler: str, path: Path) -> None:
    """Into place by a rename: several trainers may start at once."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        made = Path(folder) / "kernels.so"
        programs = [str(source) for source in SOURCES if source.suffix == ".c"]
        subprocess.run(
            [compiler, *FLAGS, *programs, "-o", str(made), "-lm"],
            check=True,
            capture_output=True,
            timeout=120,
        )
        made.replace(path)


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(errors="replace").splitlines()
    except OSError:
        return platform.processor()
    return "\n".join(sorted({line for line in lines if line.startswith(("model name", "flags"))}))
