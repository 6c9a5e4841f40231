"""Who computes next: admission, fair across adapters, and what each iteration takes on.

Waiting sequences stand in one line for each model; the lines take turns, so that one customer's hundred
requests do not keep another's one waiting. The sequence whose turn it is waits until the cache has room for
its prompt and the beginning of its answer; nobody overtakes it. An answer that goes on keeps more room; where
there is none, the newest sequence steps back to the head of its line and computes its tokens again later. The
oldest always goes on, so everybody comes to an end.
"""

from __future__ import annotations

import random
from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass, field

from graftwork.serving.embedded.adapters import Adapter
from graftwork.serving.embedded.batch import Segment, order
from graftwork.serving.embedded.kv import KVCache, Lane, States
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
    headroom: int = 256
    """Tokens of an answer for which room is kept ahead."""
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
    reserved: int = 0
    """Tokens of cache kept for it."""
    returns: int = 0
    """How often it had to step back."""
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
    def states(self) -> States | None:
        """The states of sequences, where the model has such layers."""
        return self._cache.states

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
        self.reserved -= sequence.reserved
        sequence.reserved = 0
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
            if not self._keep(head):
                break
            line.popleft()
            self.waiting -= 1
            self._lines.move_to_end(model)
            if not line:
                del self._lines[model]
            self.running.append(head)
            admitted.append(head)
        return admitted

    def plan(self) -> list[tuple[Segment, Sequence]]:
        """What to compute next, in the batch's order: a token of each decoding sequence, then chunks."""
        self._make_room()
        chosen: list[tuple[Segment, Sequence]] = []
        left = max(self._limits.batch_tokens - len(self.running), 1)
        for sequence in self.running:
            missing = len(sequence.tokens) - sequence.computed
            decode = missing == 1 and sequence.computed > 0
            count = 1 if decode else min(missing, left)
            if count == 0:
                continue
            if not decode:
                left -= count
            chosen.append((self._segment(sequence, count, decode=decode), sequence))
        # Lanes move when they grow, so rows are known only once all have been reserved.
        return sorted(chosen, key=lambda pair: order(pair[0]))

    def _keep(self, sequence: Sequence) -> bool:
        """Reserve room for what a sequence has and will soon have; False when there is not enough."""
        wanted = min(sequence.room, len(sequence.tokens) + self._limits.headroom)
        if self.reserved - sequence.reserved + wanted > self._limits.kv_tokens:
            return False
        self.reserved += wanted - sequence.reserved
        sequence.reserved = wanted
        return True

    def _make_room(self) -> None:
        """Let those that have used their room up keep more, oldest first; the newest step back for them."""
        for sequence in list(self.running):
            if sequence.reserved == 0 or len(sequence.tokens) <= sequence.reserved:
                continue  # has stepped back just now, or has room
            while not self._keep(sequence):
                newest = self.running[-1]
                self._step_back(newest)
                if newest is sequence:
                    break

    def _step_back(self, sequence: Sequence) -> None:
        self.finish(sequence)
        sequence.returns += 1
        if not sequence.generated:
            sequence.scored.clear()  # the prompt's scores have not been told, and begin again with its tokens
        self._lines.setdefault(sequence.model, deque()).appendleft(sequence)
        self._lines.move_to_end(sequence.model, last=False)
        self.waiting += 1

    def _segment(self, sequence: Sequence, count: int, *, decode: bool) -> Segment:
        start = sequence.computed
        if sequence.lane is None:
            sequence.lane = self._cache.open(min(sequence.room, len(sequence.tokens) + 32))
        self._cache.reserve(sequence.lane, start + count)
        return Segment(sequence.lane, sequence.tokens[start : start + count], decode)
