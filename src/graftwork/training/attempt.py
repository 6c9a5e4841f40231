"""One attempt at one run, seen from the trainer: its folder, its number, and what is wanted of it."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

from graftwork.core.errors import InvalidRequest, PlatformError
from graftwork.core.specs import RunSpec
from graftwork.core.states import Outcome, Want
from graftwork.runs.documents import Control, Result
from graftwork.runs.reader import RunReader
from graftwork.runs.transport import Transport, open_transport
from graftwork.runs.writer import RunWriter

POLL_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Time:
    """Clocks as a dependency: unix seconds, and seconds that only grow."""

    now: Callable[[], float] = time.time
    monotonic: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep


@dataclass(slots=True)
class StopSignal:
    """Set by SIGTERM and SIGINT; sessions look at it between steps."""

    raised: bool = False

    def raise_it(self, *_: object) -> None:
        """A signal handler."""
        self.raised = True


@dataclass(frozen=True, slots=True)
class Order:
    """What to do now. ``leave``: another attempt has the run, so stop and write nothing more."""

    act: Literal["go", "pause", "cancel", "leave"]
    reason: str | None = None


GO = Order("go")


class Orders:
    """Reads ``control.json`` about once a second and holds the attempt to its lease, deadline and cost.

    A folder without ``control.json`` (a replay on a laptop) knows no limits.
    """

    def __init__(self, reader: RunReader, fence: int, clocks: Time, stop: StopSignal) -> None:
        self._reader = reader
        self._fence = fence
        self._clocks = clocks
        self._stop = stop
        self._control = reader.control()
        self._polled = clocks.monotonic()
        self._started = clocks.now()

    def now(self, margin: float = 0.0) -> Order:
        """The order of this moment; ``margin`` seconds are needed to save before the deadline."""
        if self._clocks.monotonic() - self._polled >= POLL_SECONDS:
            self._poll()
        order = self._judge(margin)
        if order.reason == "lease_lapsed":  # it may have been renewed within the last second
            self._poll()
            order = self._judge(margin)
        return order

    def _judge(self, margin: float) -> Order:
        control, now = self._control, self._clocks.now()
        if control is not None:
            if control.fence != self._fence:
                return Order("leave")
            if control.want is Want.CANCEL:
                return Order("cancel")
            if control.want is Want.PAUSE:
                return Order("pause", "pause")
        if self._stop.raised:
            return Order("pause", "signal")
        if control is None:
            return GO
        if now + margin >= control.deadline:
            return Order("pause", "deadline")
        if now >= control.lease_until:
            return Order("pause", "lease_lapsed")
        if self._over_cost(control, now + margin):
            return Order("pause", "max_cost")
        return GO

    def _over_cost(self, control: Control, now: float) -> bool:
        if control.max_cost is None or control.price_per_hour is None:
            return False
        since = control.billed_since if control.billed_since is not None else self._started
        return (now - since) * control.price_per_hour >= control.max_cost * 3600

    def _poll(self) -> None:
        self._polled = self._clocks.monotonic()
        try:
            self._control = self._reader.control() or self._control
        except (OSError, PlatformError):
            return  # the lease bounds how long an unreachable folder is worked for


@dataclass(slots=True)
class Attempt:
    """An open run folder and the right to write one attempt in it."""

    uri: str
    reader: RunReader
    writer: RunWriter
    orders: Orders
    spec: RunSpec
    fence: int
    clocks: Time
    started: float
    """Monotonic seconds."""
    ended: bool = field(default=False)

    @classmethod
    def open(cls, uri: str, clocks: Time, stop: StopSignal) -> Attempt:
        """Open the run at ``uri``, as the attempt that ``control.json`` names.

        A URI may end in ``#<attempt>``: then only that attempt is executed, and a machine that starts
        late, when a newer attempt has the run, leaves it alone. Without ``control.json`` the attempt is
        the next one.
        """
        place, _, asked = uri.partition("#")
        transport: Transport = open_transport(place)
        reader = RunReader(transport)
        spec, control = reader.spec(), reader.control()
        if asked:
            fence = _number(asked)
        elif control is not None:
            fence = control.fence
        else:
            fence = max(reader.attempts(), default=0) + 1
        return cls(
            uri=place,
            reader=reader,
            writer=RunWriter(transport, fence, clocks.monotonic),
            orders=Orders(reader, fence, clocks, stop),
            spec=spec,
            fence=fence,
            clocks=clocks,
            started=clocks.monotonic(),
        )

    def end(self, result: Result) -> None:
        """Write the result: the attempt is over."""
        self.writer.result(result)
        self.ended = True

    def reached(self) -> tuple[int, int]:
        """Step and trained tokens of the furthest checkpoint so far; zeros without one."""
        found = self.reader.checkpoints(self.fence)
        return max(((manifest.step, manifest.tokens) for _, manifest in found), default=(0, 0))

    def stop(self, order: Order) -> None:
        """End before anything was loaded or trained in this attempt."""
        step, tokens = self.reached()
        outcome = Outcome.CANCELLED if order.act == "cancel" else Outcome.PAUSED
        self.end(Result(outcome=outcome, reason=order.reason, step=step, tokens=tokens, seconds=self.seconds))

    @property
    def seconds(self) -> float:
        """Seconds since the attempt was opened."""
        return self.clocks.monotonic() - self.started


def _number(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise InvalidRequest(
            f"#{text} does not name an attempt.", fix="End the URI in # and a number.", code="invalid_attempt"
        )
    return int(text)
