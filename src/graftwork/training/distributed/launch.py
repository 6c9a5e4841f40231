"""The supervisor: starts the processes of a run on this node, and ends them all when one is lost. No torch.

The ranks write the run folder themselves (rank 0 does). Only when one of them dies without a word does the
supervisor write the attempt's result, naming the rank and how it ended; the control plane then starts the
next attempt, which goes on from the last checkpoint.
"""

from __future__ import annotations

import queue
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from pydantic import ValidationError

from graftwork.core.errors import GraftworkError, InvalidRequest, TrainingError
from graftwork.core.states import Outcome
from graftwork.runs.documents import Message, Result, RunError
from graftwork.training.attempt import Attempt, StopSignal, Time
from graftwork.training.distributed.world import LOST, NOTES, World, note_of

GRACE = 5.0
"""Seconds that ranks get to end by themselves after one was lost, before they are killed."""
LOCAL = "127.0.0.1"


@dataclass(frozen=True, slots=True)
class End:
    """How a process ended: its exit code, or minus the signal that killed it."""

    rank: int
    code: int


def launch(uris: Sequence[str], processes: int, world: World, environment: Mapping[str, str]) -> int:
    """Train the runs at ``uris`` on ``processes`` processes of this node, until all have ended.

    ``world`` names this node; the same command runs on every other one. SIGTERM and SIGINT go on to all
    processes. Returns the exit code, as the trainer's.

    Raises:
        InvalidRequest: the run is for a trainer that starts its own processes, or ``processes`` is below 1.
    """
    if processes < 1:
        raise InvalidRequest("A run needs at least one process.", fix="Give --processes 1 or more.")
    attempts = [Attempt.open(uri, Time(), StopSignal()) for uri in uris]
    for attempt in attempts:
        _refuse_others(attempt)
    if world.nodes == 1:
        world = replace(world, address=LOCAL, port=free_port())
    with tempfile.TemporaryDirectory(prefix="graftwork-ranks-") as notes:
        command = [sys.executable, "-m", "graftwork.training"]
        for attempt in attempts:
            command += ["--run", f"{attempt.uri}#{attempt.fence}"]
        ranks = Ranks(command, world.seats(processes), {**environment, NOTES: notes})
        lost = ranks.watch()
        if lost is None:
            return 0
        for attempt in attempts:
            _record(attempt, lost, world.nodes * processes, Path(notes))
    return 1


class Ranks:
    """The processes of one node.

    Args:
        command: what each of them runs.
        seats: the variables that differ from one process to the next.
        environment: the variables that do not.
        grace: seconds that the others get to end by themselves after one was lost.
    """

    def __init__(
        self,
        command: Sequence[str],
        seats: Sequence[Mapping[str, str]],
        environment: Mapping[str, str],
        grace: float = GRACE,
    ) -> None:
        self._grace = grace
        self._ends: queue.Queue[End] = queue.Queue()
        self._processes = {
            int(seat["RANK"]): subprocess.Popen(command, env={**environment, **seat}) for seat in seats
        }
        for rank, process in self._processes.items():
            threading.Thread(target=self._wait, args=(rank, process), daemon=True).start()

    def watch(self) -> End | None:
        """Until all have ended; None when all went well, else the end that caused the others'."""
        before = {number: signal.signal(number, self._forward) for number in (signal.SIGTERM, signal.SIGINT)}
        try:
            return self._await()
        finally:
            self._kill()
            for number, handler in before.items():
                signal.signal(number, handler)

    def _await(self) -> End | None:
        left = len(self._processes)
        while left:
            end = self._ends.get()
            left -= 1
            if end.code:
                return self._cause([end, *self._rest(left)])
        return None

    def _rest(self, left: int) -> list[End]:
        """Ends of others that follow from the first, or come before they are killed."""
        found: list[End] = []
        try:
            while len(found) < left:
                found.append(self._ends.get(timeout=self._grace))
        except queue.Empty:
            pass
        return found

    def _cause(self, ends: Sequence[End]) -> End:
        """The first that did not end for want of another."""
        return next((end for end in ends if end.code not in (0, LOST)), ends[0])

    def _wait(self, rank: int, process: subprocess.Popen[bytes]) -> None:
        self._ends.put(End(rank, process.wait()))

    def _forward(self, number: int, _: object) -> None:
        for process in self._processes.values():
            if process.poll() is None:
                process.send_signal(number)

    def _kill(self) -> None:
        for process in self._processes.values():
            if process.poll() is None:
                process.kill()
            process.wait()


def free_port() -> int:
    """A port of this machine that nobody listens on now."""
    with socket.socket() as listener:
        listener.bind((LOCAL, 0))
        return int(listener.getsockname()[1])


def explain(end: End, size: int, notes: Path) -> RunError:
    """Which rank ended how, in its own words where it left some."""
    if end.code == LOST:
        return RunError(
            code="rank_lost",
            message=f"Rank {end.rank} of {size} lost a process on another node. The next attempt goes on.",
            kind="platform",
        )
    how = f"was killed by {_signal(-end.code)}" if end.code < 0 else f"ended with exit code {end.code}"
    said = _note(note_of(notes, end.rank))
    if said is not None:
        return RunError(
            code=said.code,
            message=f"Rank {end.rank} of {size} {how}: {said.message}",
            kind=said.kind,
            param=said.param,
        )
    return RunError(
        code="rank_lost",
        message=f"Rank {end.rank} of {size} {how}. The next attempt goes on from the last checkpoint.",
        kind="platform",
    )


def _record(attempt: Attempt, lost: End, size: int, notes: Path) -> None:
    """Write the result that no rank wrote; the first node's supervisor does it."""
    if attempt.reader.result(attempt.fence) is not None or _superseded(attempt):
        return
    failure = explain(lost, size, notes)
    sys.stderr.write(f"graftwork trainer: {attempt.uri}: {failure.message}\n")
    step, tokens = attempt.reached()
    # A writer of its own: the one it was opened with counted files before the ranks wrote theirs.
    attempt = Attempt.open(f"{attempt.uri}#{attempt.fence}", attempt.clocks, StopSignal())
    attempt.writer.emit(
        Message(at=attempt.clocks.now(), level="error", message=failure.message, code=failure.code)
    )
    try:
        attempt.end(
            Result(outcome=Outcome.FAILED, error=failure, step=step, tokens=tokens, seconds=attempt.seconds)
        )
    except (GraftworkError, OSError) as error:  # another node's supervisor was faster, or the disk is full
        sys.stderr.write(f"graftwork trainer: {attempt.uri}: its result cannot be written: {error}\n")


def _superseded(attempt: Attempt) -> bool:
    control = attempt.reader.control()
    return control is not None and control.fence != attempt.fence


def _refuse_others(attempt: Attempt) -> None:
    if attempt.spec.trainer != "native":
        raise TrainingError(
            f"The {attempt.spec.trainer} trainer starts its processes itself.",
            fix="Leave --processes out.",
            code="trainer_is_one_process",
        )
    if attempt.spec.quantization != "none":
        raise TrainingError(
            "A base model in 4 bits is not spread over processes.",
            fix="Train it with one process, or unquantized.",
            code="unsupported_method",
        )


def _note(path: Path) -> RunError | None:
    try:
        return Result.model_validate_json(path.read_bytes()).error
    except (OSError, ValidationError):
        return None


def _signal(number: int) -> str:
    try:
        return f"signal {number} ({signal.Signals(number).name})"
    except ValueError:
        return f"signal {number}"
