"""The trainer's hand in a run folder: heartbeats, events, log, checkpoints, and the result last.

Order is the promise. A checkpoint's manifest is written after its files, the result after everything. A
process killed between any two writes leaves a folder that reads as if it had stopped a moment earlier.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from graftwork.core.errors import Conflict
from graftwork.runs import layout
from graftwork.runs.documents import (
    AdapterFiles,
    CheckpointManifest,
    Heartbeat,
    Message,
    Metrics,
    Probe,
    Result,
)
from graftwork.runs.reader import RunReader, sha256_of
from graftwork.runs.transport import AlreadyExists, Transport

FLUSH_SECONDS = 1.0
FLUSH_EVENTS = 500


class RunWriter:
    """Writes attempt ``fence`` of one run folder. One process, one writer.

    Numbering goes on after what an earlier process of the same attempt left. Should two processes write one
    attempt, the second to write a number gets ``Conflict`` (``attempt_has_another_writer``) and must stop.

    Args:
        transport: the run folder.
        fence: the attempt's number.
        clock: monotonic seconds; decides when buffered events are flushed.
    """

    def __init__(self, transport: Transport, fence: int, clock: Callable[[], float] = time.monotonic) -> None:
        self.transport = transport
        self.fence = fence
        self._clock = clock
        self._events: list[bytes] = []
        self._text: list[str] = []
        self._flushed_at = clock()
        self._event_files = self._last(layout.events(fence))
        self._log_files = self._last(layout.logs(fence))

    def heartbeat(self, heartbeat: Heartbeat) -> None:
        """Replace the heartbeat; events that have waited long enough are written too."""
        self.transport.replace(layout.heartbeat(self.fence), heartbeat.to_bytes())
        self._flush_when_due()

    def emit(self, event: Metrics | Message) -> None:
        """Buffer an event; the buffer is written when it is a second old or full, and by ``flush``."""
        self._events.append(event.to_bytes())
        self._flush_when_due()

    def log(self, text: str) -> None:
        """Buffer text for the log; written as events are."""
        self._text.append(text)
        self._flush_when_due()

    def flush(self) -> None:
        """Write what is buffered: one new event file, one new log file."""
        self._flushed_at = self._clock()
        if self._events:
            self._append(
                f"{layout.events(self.fence)}/{self._event_files + 1:06d}.jsonl", b"\n".join(self._events)
            )
            self._event_files += 1
            self._events = []
        if self._text:
            self._append(
                f"{layout.logs(self.fence)}/{self._log_files + 1:06d}.txt", "".join(self._text).encode()
            )
            self._log_files += 1
            self._text = []

    def checkpoint(
        self,
        step: int,
        source: Path,
        *,
        at: float,
        metrics: dict[str, float],
        tokens: int,
        best: bool = False,
        probes: list[Probe] | None = None,
    ) -> CheckpointManifest:
        """Copy the files of the directory ``source`` in, then write the manifest.

        A complete checkpoint of the same step in this attempt is kept and returned: it is of the same curve.
        Half a one, left by a killed process, is left alone and a folder beside it is used.
        """
        self.flush()
        made, folder = self._made(step)
        if made is not None:
            return made
        files = self._put_all(folder, source)
        manifest = CheckpointManifest(
            step=step,
            at=at,
            dir=folder,
            files=files,
            metrics=metrics,
            tokens=tokens,
            best=best,
            probes=probes or [],
        )
        self._append(f"{folder}/{layout.MANIFEST}", manifest.to_bytes())
        return manifest

    def adapter(self, source: Path) -> AdapterFiles:
        """Copy the resulting adapter's files in, beside what a killed process may have left."""
        retry = 0
        while self.transport.list(folder := layout.adapter(self.fence, retry)):
            retry += 1
        return AdapterFiles(dir=folder, files=self._put_all(folder, source))

    def result(self, result: Result) -> None:
        """Flush, then write the result: after this the attempt is over."""
        self.flush()
        self._append(layout.result(self.fence), result.to_bytes())

    def _put_all(self, folder: str, source: Path) -> dict[str, str]:
        files: dict[str, str] = {}
        for local in sorted(path for path in source.rglob("*") if path.is_file()):
            name = local.relative_to(source).as_posix()
            files[name] = sha256_of(local)
            path = f"{folder}/{name}"
            self._alone(path, lambda path=path, local=local: self.transport.put_file(path, local))
        return files

    def _made(self, step: int) -> tuple[CheckpointManifest | None, str]:
        """The complete checkpoint of a step, if there is one, and a folder that is free for one."""
        reader, retry = RunReader(self.transport), 0
        while True:
            folder = layout.checkpoint(self.fence, step, retry)
            if not self.transport.list(folder):
                return None, folder
            manifest = reader.checkpoint(folder)
            if manifest is not None:
                return manifest, folder
            retry += 1

    def _append(self, path: str, data: bytes) -> None:
        self._alone(path, lambda: self.transport.create(path, data))

    def _alone(self, path: str, write: Callable[[], None]) -> None:
        try:
            write()
        except AlreadyExists as error:
            raise Conflict(
                f"Another process writes attempt {self.fence} of this run ({path} exists).",
                fix="Only one trainer may execute an attempt; this one stops.",
                code="attempt_has_another_writer",
            ) from error

    def _flush_when_due(self) -> None:
        due = self._clock() - self._flushed_at >= FLUSH_SECONDS
        if due or len(self._events) + len(self._text) >= FLUSH_EVENTS:
            self.flush()

    def _last(self, folder: str) -> int:
        return max((layout.number(path) or 0 for path in self.transport.list(folder)), default=0)
