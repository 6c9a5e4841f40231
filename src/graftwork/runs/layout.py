"""Names of the objects in a run folder, in one place."""

from __future__ import annotations

import re

SPEC = "spec.json"
CONTROL = "control.json"
TRAIN = "data/train.jsonl"
VALID = "data/valid.jsonl"
MANIFEST = "manifest.json"
START = "start"
"""Folder of the adapter that a run begins with instead of a fresh one."""

_NUMBERED = re.compile(r"/(\d{6,})\.(?:jsonl|txt)$")
_CHECKPOINT = re.compile(r"^attempts/(\d+)/(checkpoints/step-\d{6,}(?:-r\d+)?)/(.+)$")


def attempt(fence: int) -> str:
    """Folder of one attempt."""
    return f"attempts/{fence}"


def heartbeat(fence: int) -> str:
    """The attempt's heartbeat."""
    return f"{attempt(fence)}/heartbeat.json"


def result(fence: int) -> str:
    """The attempt's result."""
    return f"{attempt(fence)}/result.json"


def events(fence: int) -> str:
    """Folder of the attempt's event files."""
    return f"{attempt(fence)}/events"


def logs(fence: int) -> str:
    """Folder of the attempt's log files."""
    return f"{attempt(fence)}/log"


def adapter(fence: int, retry: int = 0) -> str:
    """Folder of the attempt's resulting adapter; ``retry`` counts folders that a killed process left."""
    return f"{attempt(fence)}/adapter" + (f"-r{retry}" if retry else "")


def checkpoint(fence: int, step: int, retry: int = 0) -> str:
    """Folder of a checkpoint; ``retry`` counts folders of the same step that a killed process left."""
    return f"{attempt(fence)}/checkpoints/step-{step:06d}" + (f"-r{retry}" if retry else "")


def number(path: str) -> int | None:
    """The number of an event or log file, None for another name."""
    match = _NUMBERED.search(path)
    return int(match[1]) if match else None


def parse_checkpoint(path: str) -> tuple[int, str, str] | None:
    """``(fence, folder, file name)`` of an object in a checkpoint's folder, None for another name."""
    match = _CHECKPOINT.match(path)
    return (int(match[1]), f"{attempt(int(match[1]))}/{match[2]}", match[3]) if match else None
