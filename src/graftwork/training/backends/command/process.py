"""A tool's process: in a group of its own, asked to stop by SIGTERM, and killed with all it started."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

TAIL = 40
"""Lines of the log that say why a tool failed."""
_KEPT = ("PATH", "HOME", "LANG", "TMPDIR", "CUDA_", "NVIDIA_", "NEURON_", "LD_LIBRARY_PATH", "OMP_", "HF_")


def environment_of(own: Mapping[str, str], more: Mapping[str, str]) -> dict[str, str]:
    """What a tool may know: its device and caches, nothing of ours and no key of anybody's service."""
    kept = {name: value for name, value in own.items() if name.startswith(_KEPT) and name != "HF_TOKEN"}
    return {
        **kept,
        "HF_HUB_OFFLINE": "1",  # the base model lies here; nothing else is to be fetched
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "WANDB_MODE": "disabled",
        "TOKENIZERS_PARALLELISM": "false",
        "PYTHONUNBUFFERED": "1",
        **more,
    }


class Process:
    """A running tool."""

    def __init__(self, command: Sequence[str], work: Path, log: Path, environment: Mapping[str, str]) -> None:
        with log.open("ab") as file:
            self._process = subprocess.Popen(
                list(command),
                cwd=work,
                env=dict(environment),
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def ended(self) -> int | None:
        """Its exit code, None while it runs; negative is the signal that killed it."""
        return self._process.poll()

    def wait(self, seconds: float) -> bool:
        """Wait at most so long; whether it has ended."""
        try:
            self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            return False
        return True

    def ask_to_stop(self) -> None:
        """SIGTERM to the tool itself, which hands it on: it saves and ends after the step."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """End the whole group, whoever is left of it."""
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()


def tail(log: Path) -> str:
    """The last lines of a tool's output."""
    try:
        lines = log.read_text(errors="replace").splitlines()
    except FileNotFoundError:
        return ""
    return "\n".join(lines[-TAIL:])
