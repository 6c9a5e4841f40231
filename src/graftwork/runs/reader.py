"""The control plane's view of a run folder. A document that is not there yet reads as None or as nothing."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ValidationError

from graftwork.core.errors import PlatformError
from graftwork.core.specs import RunSpec
from graftwork.runs import layout
from graftwork.runs.documents import (
    EVENTS,
    CheckpointManifest,
    Control,
    Heartbeat,
    Message,
    Metrics,
    Result,
)
from graftwork.runs.transport import Transport

D = TypeVar("D", bound=BaseModel)


class RunReader:
    """Reads one run folder; holds no state, so any number may read at once.

    Every method raises ``PlatformError`` (``code="run_folder_corrupt"``) for a document that is there but is
    not what it must be; only a checkpoint's manifest then counts as not there.
    """

    def __init__(self, transport: Transport) -> None:
        self.transport = transport

    def spec(self) -> RunSpec:
        """What to train. Raises ``PlatformError`` (``run_folder_incomplete``) when it was never written."""
        spec = self._document(layout.SPEC, RunSpec)
        if spec is None:
            raise PlatformError(
                "The run folder has no spec.json.",
                fix="Point the trainer at a folder that the control plane prepared.",
                code="run_folder_incomplete",
            )
        return spec

    def control(self) -> Control | None:
        """What the control plane wants."""
        return self._document(layout.CONTROL, Control)

    def heartbeat(self, fence: int) -> Heartbeat | None:
        """The attempt's last heartbeat."""
        return self._document(layout.heartbeat(fence), Heartbeat)

    def result(self, fence: int) -> Result | None:
        """How the attempt ended; None while it has not (or was lost)."""
        return self._document(layout.result(fence), Result)

    def attempts(self) -> list[int]:
        """Fences that have written something, ascending."""
        return sorted(
            {
                int(path.split("/")[1])
                for path in self.transport.list("attempts")
                if path.split("/")[1].isdigit()
            }
        )

    def events(self, fence: int, after: int = 0, limit: int = 1000) -> tuple[list[Metrics | Message], int]:
        """Events of the files numbered above ``after``, in order, and the number of the last file read.

        Pass the returned number as ``after`` next time. At most ``limit`` files are read in one call.
        """
        paths = self._numbered(layout.events(fence), after, limit)
        found: list[Metrics | Message] = []
        for path in paths:
            try:
                found.extend(EVENTS.validate_json(line) for line in self.file(path).splitlines())
            except ValidationError as error:
                raise _corrupt(path, str(error)) from error
        return found, after + len(paths)

    def log(self, fence: int, after: int = 0, limit: int = 1000) -> tuple[str, int]:
        """Text of the log files numbered above ``after``, and the number of the last one read."""
        paths = self._numbered(layout.logs(fence), after, limit)
        return "".join(self.file(path).decode(errors="replace") for path in paths), after + len(paths)

    def checkpoints(self, max_fence: int) -> list[tuple[int, CheckpointManifest]]:
        """Complete checkpoints of attempts up to ``max_fence``, by fence, then step: the last is the newest.

        Complete means that the manifest is there, and every file that it names.
        """
        folders: dict[str, int] = {}
        for path in self.transport.list("attempts"):
            parsed = layout.parse_checkpoint(path)
            if parsed and parsed[0] <= max_fence:
                folders[parsed[1]] = parsed[0]
        found = [(fence, self.checkpoint(folder)) for folder, fence in folders.items()]
        complete = [(fence, manifest) for fence, manifest in found if manifest is not None]
        return sorted(complete, key=lambda pair: (pair[0], pair[1].step, pair[1].dir))

    def checkpoint(self, folder: str) -> CheckpointManifest | None:
        """The manifest of the checkpoint in ``folder``, when it is complete.

        One with a damaged manifest is not: there are earlier ones, and a run must not end for it.
        """
        try:
            manifest = self._document(f"{folder}/{layout.MANIFEST}", CheckpointManifest)
        except PlatformError:
            return None
        if manifest is None or manifest.dir != folder:
            return None
        present = set(self.transport.list(folder))
        return manifest if present.issuperset(f"{folder}/{name}" for name in manifest.files) else None

    def file(self, path: str) -> bytes:
        """Bytes of an object. Raises ``PlatformError`` (``run_file_missing``) when there is none."""
        data = self.transport.read(path)
        if data is None:
            raise PlatformError(f"The run folder has no {path}.", code="run_file_missing")
        return data

    def fetch(self, folder: str, files: dict[str, str], target: Path) -> None:
        """Copy ``files`` (name to sha256) of ``folder`` into the directory ``target``, verifying each.

        Raises:
            PlatformError: ``run_folder_corrupt``, a file is missing or is not what its hash says.
        """
        for name, sha256 in files.items():
            local = target / name
            local.parent.mkdir(parents=True, exist_ok=True)
            try:
                self.transport.get_file(f"{folder}/{name}", local)
            except FileNotFoundError as error:
                raise _corrupt(f"{folder}/{name}", "missing") from error
            if sha256_of(local) != sha256:
                raise _corrupt(f"{folder}/{name}", "its hash is not the manifest's")

    def _numbered(self, folder: str, after: int, limit: int) -> list[str]:
        """Files of consecutive numbers above ``after``; a gap ends them, so that order never breaks."""
        paths = {layout.number(path): path for path in self.transport.list(folder)}
        found: list[str] = []
        while len(found) < limit and (path := paths.get(after + 1 + len(found))):
            found.append(path)
        return found

    def _document(self, path: str, kind: type[D]) -> D | None:
        data = self.transport.read(path)
        if data is None:
            return None
        try:
            return kind.model_validate_json(data)
        except ValidationError as error:
            raise _corrupt(path, str(error)) from error


def sha256_of(path: Path) -> str:
    """Hex SHA-256 of a local file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _corrupt(path: str, what: str) -> PlatformError:
    return PlatformError(
        f"{path} in the run folder is damaged: {what}.",
        fix="The attempt cannot be read; start another.",
        code="run_folder_corrupt",
    )
