"""Who computes next: admission, fair across adapters, and what each iteration takes on.

Waiting sequences stand in one line for each model; the lines take turns, so that one customer's hundred
requests do not keep another's one waiting. The sequence whose turn it is waits until the cache has room
for its prompt and its longest answer together; nobody overtakes it, so nobody starves. Because the room
is kept from the start, a running sequence is never interrupted.
"""

from __future__ import annotations

import random
from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass, field

from graftwork.serving.embedded.adapters import Adapter
from graftwork.serving.embedded.batch import Segment, order
from graftwork.serving.embedded.kv import KVCache, Lane
from graftwork.serving.wire.backend import Sampling, Scored, Step


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What one engine takes on."""

    max_running: int = 32
    """Sequences in the batch."""
    max_waiting: int = 256
    """Sequences in the queue; beyond it requests are refused."""
    kv_tokens: int = 65536
    """Tokens of cache that running sequences may reserve together."""
    batch_tokens: int = 512
    """Tokens of one iteration: decoding sequences first, the rest for chunks of prompts."""


@dataclass(eq=False, slots=True)
class Sequence:
    """One answer being made. The compute thread's own, but for ``sink`` and ``cancel``."""

    model: str
    adapter: Adapter | None
    tokens: list[int]
    """Prompt, then answer."""
    prompt: int
    """Length of the prompt."""
    sampling: Sampling
    chance: random.Random
    sink: Callable[[Step], None]
    """Where its news go, on the event loop's thread."""
    lane: Lane | None = None
    scored: list[Scored] = field(default_factory=list)
    """Scores of the prompt's tokens so far, when wanted."""
    cancelled: bool = False

    def cancel(self) -> None:
        """Mark it: no more news, and its cache is freed before the next iteration."""
        self.cancelled = True

    @property
    def room(self) -> int:
        """Tokens it may come to have."""
        return self.prompt + self.sampling.max_tokens

    @property
    def generated(self) -> int:
        """Tokens generated so far."""
        return len(self.tokens) - self.prompt

    @property
    def computed(self) -> int:
        """Tokens whose keys and values are in the cache."""
        return self.lane.length if self.lane is not None else 0


class Scheduler:
    """The queue and the running set. Used by the compute thread alone."""

    def __init__(self, limits: Limits, cache: KVCache) -> None:
        self._limits = limits
        self._cache = cache
        self._lines: OrderedDict[str, deque[Sequence]] = OrderedDict()
        self.running: list[Sequence] = []
        self.waiting = 0
        self.reserved = 0
        """Tokens of cache reserved by the running."""

    @property
    def busy(self) -> bool:
        """Whether there is anything to do."""
        return bool(self.running or self.waiting)

    def add(self, sequence: Sequence) -> None:
        """Put a sequence at the end of its model's line."""
        self._lines.setdefault(sequence.model, deque()).append(sequence)
        self.waiting += 1

    def finish(self, sequence: Sequence) -> None:
        """Take a running sequence out and free its cache."""
        self.running.remove(sequence)
        self.reserved -= sequence.room
        if sequence.lane is not None:
            self._cache.close(sequence.lane)
            sequence.lane = None

    def drop_cancelled(self) -> None:
        """Let go of all sequences whose client has left."""
        for sequence in [s for s in self.running if s.cancelled]:
            self.finish(sequence)
        for model, line in list(self._lines.items()):
            kept = deque(s for s in line if not s.cancelled)
            self.waiting -= len(line) - len(kept)
            self._lines[model] = kept
            if not kept:
                del self._lines[model]

    def admit(self) -> list[Sequence]:
        """Move waiting sequences to the running set while there is room; the lines take turns."""
        admitted: list[Sequence] = []
        while self._lines and len(self.running) < self._limits.max_running:
            model, line = next(iter(self._lines.items()))
            head = line[0]
            if self.reserved + head.room > self._limits.kv_tokens:
                break
            line.popleft()
            self.waiting -= 1
            self._lines.move_to_end(model)
            if not line:
                del self._lines[model]
            self.reserved += head.room
            self.running.append(head)
            admitted.append(head)
        return admitted

    def plan(self) -> list[tuple[Segment, Sequence]]:
        """What to compute next, in the batch's order: a token of each decoding sequence, then chunks."""
        chosen: list[tuple[Segment, Sequence]] = []
        left = max(self._limits.batch_tokens - len(self.running), 1)
        for sequence in self.running:
            missing = len(sequence.tokens) - sequence.computed
            decode = sequence.generated > 0
            count = 1 if decode else min(missing, left)
            if count == 0:
                continue
            if not decode:
                left -= count
            chosen.append((self._segment(sequence, count, decode=decode), sequence))
        # Lanes move when they grow, so rows are known only once all have been reserved.
        return sorted(chosen, key=lambda pair: order(pair[0]))

    def _segment(self, sequence: Sequence, count: int, *, decode: bool) -> Segment:
        start = sequence.computed
        if sequence.lane is None:
            sequence.lane = self._cache.open(min(sequence.room, sequence.prompt + 32))
        self._cache.reserve(sequence.lane, start + count)
        return Segment(sequence.lane, sequence.tokens[start : start + count], decode)
