"""Train LoRA adapters: the entry of a worker.

    python -m graftwork.training --run URI [--run URI …]
    python -m graftwork.training --assignments URI

Each URI is a run folder (docs/training.md), or a list of run folders that is read again between steps; all
runs share one base model. The trainer opens the folders, loads the base model once, and gives every run a
session. Sessions take steps together; they join and leave between steps: when they are listed, when they have
trained to the end, when their control file says so, when their lease lapses, or when they fail. One run's
failure is its own. All that is learnt is written into the run folders.

Exit code: 0 when every run has a result that is not the platform's fault, else 1. A run that another attempt
has taken over is left alone and counts as well ended.
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from graftwork.core.errors import GraftworkError, PlatformError
from graftwork.core.specs import RunSpec
from graftwork.data.rendering import Renderer
from graftwork.training.attempt import Attempt, StopSignal, Time
from graftwork.training.backends import Backend, backend_of
from graftwork.training.base import open_base
from graftwork.training.company import WAIT_SECONDS, AssignmentList, forward_backward
from graftwork.training.distributed.world import World
from graftwork.training.engine import Engine, Sums, Work
from graftwork.training.failures import record
from graftwork.training.machine import set_threads
from graftwork.training.reporting import Reporter
from graftwork.training.session import Session

LoadBase = Callable[[RunSpec], tuple[Engine, Renderer]]
OpenAttempt = Callable[[str, Time, StopSignal], Attempt]
FindBackend = Callable[[RunSpec], Backend | None]


def main(uris: Sequence[str], assignments: str | None, world: World) -> int:
    """Train the runs at ``uris``, and those listed at ``assignments``; returns the exit code.

    SIGTERM and SIGINT pause. ``world`` says which process of how many this is; all of them train the same
    runs, together.
    """
    stop = StopSignal()
    before = {number: signal.signal(number, stop.raise_it) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        set_threads(world.local_size)
        with ways(world) as (load, open_attempt):
            trainer = Trainer(load=load, stop=stop, open_attempt=open_attempt)
            for uri in uris:
                trainer.join(uri)
            trainer.run(None if assignments is None else AssignmentList(assignments, Time()))
        return 1 if trainer.platform_failed else 0
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def ways(world: World) -> Iterator[tuple[LoadBase, OpenAttempt]]:
    """How base models are loaded and attempts opened: alone, or as one of several processes."""
    if not world.several:
        yield open_base, Attempt.open
        return
    from graftwork.training.distributed.group import joined
    from graftwork.training.distributed.opened import loader, opener

    with joined(world) as group:
        yield loader(group), opener(group)


class Trainer:
    """Sessions on one engine.

    Args:
        load: opens a base model; called once, for the first run.
        stop: raised when the machine is about to go.
        clocks: what time it is.
        backend: the trainer that a run asks for, None for this one.
        open_attempt: opens a run folder.
    """

    def __init__(
        self,
        load: LoadBase,
        stop: StopSignal,
        clocks: Time | None = None,
        backend: FindBackend = backend_of,
        open_attempt: OpenAttempt = Attempt.open,
    ) -> None:
        self.sessions: list[Session] = []
        self.platform_failed = False
        self._load = load
        self._stop = stop
        self._clocks = clocks or Time()
        self._backend = backend
        self._open = open_attempt
        self._base: tuple[RunSpec, Engine, Renderer] | None = None
        self._limit: int | None = None
        self._park = False

    def join(self, uri: str) -> None:
        """Take a run in: open its folder, load the base model if it is the first, resume or start it."""
        self._contained([], lambda: self._join(uri), uri)  # a folder that cannot be read takes no result

    def _join(self, uri: str) -> None:
        attempt = self._open(uri, self._clocks, self._stop)
        done = attempt.reader.result(attempt.fence)
        if done is not None:
            say(f"{uri}: attempt {attempt.fence} has already ended: {done.outcome}.")
            self.platform_failed |= done.error is not None and done.error.kind == "platform"
            return
        order = attempt.orders.now()
        if order.act == "go":
            self._contained([attempt], lambda: self._begin(attempt))
        elif order.act != "leave":
            self._contained([attempt], lambda: attempt.stop(order))

    def run(self, assignments: AssignmentList | None = None) -> None:
        """Step until no session is left and, with a list, none is to be awaited."""
        while True:
            if assignments is not None:
                self.take(assignments)
            if self.sessions:
                self.turn()
            elif assignments is None or assignments.over() or self._stop.raised:
                return
            else:
                self._clocks.sleep(WAIT_SECONDS)

    def take(self, assignments: AssignmentList) -> None:
        """Take in what is new in the list, and its limits."""
        if self.sessions:
            assignments.busy()
        if not self._stop.raised:
            for uri in assignments.news():
                self.join(uri)
        self._limit, self._park = assignments.tokens_per_pass, assignments.park

    def turn(self) -> None:
        """One step of every session."""
        self._part()
        for session in self.sessions:
            others = sum(other.saving for other in self.sessions if other is not session)
            self._contained([session.attempt], lambda: session.obey(others))  # noqa: B023 - called at once
        self._part()
        work = {session: work for session in self.sessions if (work := self._work(session)) is not None}
        if self._base is not None and work:
            outcomes = forward_backward(self._base[1], list(work.values()), self._limit)
            for session, outcome in zip(work, outcomes, strict=True):
                self._contained([session.attempt], lambda: finish(session, outcome))  # noqa: B023
                if self._park and not session.attempt.ended:
                    session.rest()
        self._part()

    def _begin(self, attempt: Attempt) -> None:
        Reporter(attempt, attempt.spec.schedule.total_steps).phase("loading")
        backend = self._backend(attempt.spec)
        if backend is not None:
            backend.run(attempt)
            return
        if self._base is None:
            self._base = (attempt.spec, *self._load(attempt.spec))
        first, engine, renderer = self._base
        if (first.base, first.quantization) != (attempt.spec.base, attempt.spec.quantization):
            raise PlatformError(
                f"This trainer has the base model {_said(first)}; the run wants {_said(attempt.spec)}.",
                fix="Start a trainer of its own for each base model, and for each quantization of it.",
                code="wrong_base",
            )
        others = [session.spec for session in self.sessions]
        if others and any(spec.lora.dora for spec in (attempt.spec, *others)):
            raise PlatformError(
                "A run with DoRA trains alone, and this trainer has other runs.",
                fix="Start a trainer of its own for it.",
                code="needs_own_trainer",
            )
        session = Session(attempt, engine, renderer)
        self.sessions.append(session)
        session.start()

    def _work(self, session: Session) -> Work | None:
        """A session's share of the next pass; None when making it failed."""
        made: list[Work] = []
        self._contained([session.attempt], lambda: made.append(session.work()))
        return made[0] if made else None

    def _part(self) -> None:
        for session in [session for session in self.sessions if session.attempt.ended]:
            self.sessions.remove(session)
            self._contained([], session.close, session.attempt.uri)

    def _contained(self, attempts: Sequence[Attempt], act: Callable[[], object], uri: str = "") -> None:
        """Run ``act``; what it raises ends these attempts and no others.

        Where there is no attempt to end, it is told of ``uri``: nothing of one run may end the trainer.
        """
        try:
            act()
        except Exception as error:
            for attempt in attempts:
                self._fail(attempt, error)
            if not attempts:
                say(f"{uri}: {error}")
                self.platform_failed = True

    def _fail(self, attempt: Attempt, error: Exception) -> None:
        """End an attempt with its error as the result, unless it is another process's to end."""
        attempt.ended = True
        say(f"{attempt.uri}: {error}")
        if isinstance(error, GraftworkError) and error.code == "attempt_has_another_writer":
            return
        progress = next((s.progress for s in self.sessions if s.attempt is attempt), None)
        try:
            step, tokens = (progress.step, progress.tokens) if progress else attempt.reached()
            failure = record(attempt, error, step, tokens)
            self.platform_failed |= failure.kind == "platform"
        except (OSError, GraftworkError) as second:
            say(f"{attempt.uri}: its result cannot be written: {second}")
            self.platform_failed = True


def finish(session: Session, outcome: Sums | Exception) -> None:
    """Hand a session its part of a step, or the error that it became."""
    if isinstance(outcome, Exception):
        raise outcome
    session.finish(outcome)


def _said(spec: RunSpec) -> str:
    """A run's base model and how it is held."""
    return spec.base.name if spec.quantization == "none" else f"{spec.base.name} in {spec.quantization}"


def say(text: str) -> None:
    """To the machine's log."""
    sys.stderr.write(f"graftwork trainer: {text}\n")
