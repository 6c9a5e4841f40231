"""The machine under the trainer: device, threads, memory."""

from __future__ import annotations

import os
import platform
import resource
import sys
from pathlib import Path

import torch


def pick_device() -> torch.device:
    """The first GPU, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def usable_cpus() -> int:
    """CPUs this process may keep busy: its affinity, and the quota of its container."""
    return max(1, min(len(os.sched_getaffinity(0)), quota(Path("/sys/fs/cgroup/cpu.max")) or 1 << 20))


def set_threads(processes: int = 1) -> None:
    """As many threads as CPUs, shared by ``processes``, unless ``OMP_NUM_THREADS`` says otherwise.

    PyTorch counts the host's cores: in a container with a quota it would start too many, and crawl.
    """
    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(max(1, usable_cpus() // processes))


def memory_mb(device: torch.device) -> float:
    """Peak memory so far in MiB: of the GPU's allocator, else of the process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    return peak_bytes() / 2**20


def peak_bytes() -> int:
    """Peak resident memory of this process. Linux counts it from the start of the program; ``getrusage`` from
    before that, and so never says less than what the parent held."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:")) * 1024
    except (OSError, StopIteration):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def describe(device: torch.device) -> dict[str, str | int | float]:
    """Device, threads and versions, for the result."""
    name = (
        torch.cuda.get_device_name(device)
        if device.type == "cuda"
        else platform.processor() or platform.machine()
    )
    return {
        "device": f"{device.type}: {name}",
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "python": platform.python_version(),
    }


def quota(path: Path) -> int | None:
    """Whole CPUs of a cgroup's quota, None for no quota or no cgroup."""
    try:
        quota, period = path.read_text().split()
    except (OSError, ValueError):
        return None
    return None if quota == "max" else max(1, int(quota) // int(period))
