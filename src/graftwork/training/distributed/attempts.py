"""An attempt that several processes execute: one of them writes, all of them obey the same order."""

from __future__ import annotations

import os
from pathlib import Path

from graftwork.core.errors import GraftworkError, TrainingError
from graftwork.runs import layout
from graftwork.runs.transport import Transport
from graftwork.runs.writer import RunWriter
from graftwork.training.attempt import GO, Attempt, Order, Orders, StopSignal, Time
from graftwork.training.distributed.group import Group
from graftwork.training.distributed.world import NOTES, note_of

_ORDER = ("go", "pause", "cancel", "leave")


class Onlooker:
    """A run folder that is read and never written. See ``Transport``."""

    def __init__(self, real: Transport, note: Path | None) -> None:
        self._real, self._note = real, note

    def read(self, path: str) -> bytes | None:
        """The real object's bytes."""
        return self._real.read(path)

    def create(self, path: str, data: bytes) -> None:
        """Nothing; a result is kept as the rank's note."""
        if self._note is not None and path.endswith(layout.result(1).rpartition("/")[2]):
            self._note.write_bytes(data)

    def replace(self, path: str, data: bytes) -> None:
        """Nothing."""

    def list(self, prefix: str) -> list[str]:
        """Nothing is ever there: every name is free."""
        return []

    def put_file(self, path: str, local: Path) -> None:
        """Nothing."""

    def get_file(self, path: str, local: Path) -> None:
        """Copy the real object."""
        self._real.get_file(path, local)


class AgreedOrders(Orders):
    """The leader's order, or a signal that any rank got; all ranks ask at the same point of their course."""

    def __init__(self, group: Group, own: Orders, stop: StopSignal) -> None:
        self._group, self._own, self._raised = group, own, stop

    def now(self, margin: float = 0.0) -> Order:
        """The gravest order of all ranks; see ``Orders.now``."""
        mine = GO
        if self._group.leads:
            mine = self._own.now(margin)
        elif self._raised.raised:
            mine = Order("pause", "signal")
        orders = self._group.show((_ORDER.index(mine.act), mine.reason))
        act, reason = max(orders, key=lambda order: order[0])  # of equals the leader's, which comes first
        return Order(_ORDER[act], reason)


def open_together(group: Group, uri: str, clocks: Time, stop: StopSignal) -> Attempt:
    """The same attempt on every rank; see ``Attempt.open``. The leader says which one it is.

    Raises:
        TrainingError: ``rank_lost``, the leader could not open the run folder.
    """
    attempt: Attempt | None = None
    failure: GraftworkError | OSError | None = None
    if group.leads:
        try:
            attempt = Attempt.open(uri, clocks, stop)
        except (GraftworkError, OSError) as error:
            failure = error
    fence = group.show(attempt.fence if attempt else 0)[0]
    if failure is not None:
        raise failure
    if not fence:
        raise TrainingError("Rank 0 cannot open the run folder.", code="rank_lost")
    if attempt is None:
        attempt = Attempt.open(f"{uri.partition('#')[0]}#{fence}", clocks, stop)
        notes = os.environ.get(NOTES)
        note = note_of(Path(notes), group.rank) if notes else None
        watching = Onlooker(attempt.reader.transport, note)
        attempt.writer = RunWriter(watching, fence, clocks.monotonic)
    attempt.orders = AgreedOrders(group, attempt.orders, stop)
    return attempt
