"""One iteration's tokens in one row, and attention over them.

The tokens of all scheduled sequences stand behind one another in a row of shape [1, T]: first one token
of every decoding sequence, ordered by slab, then the chunks of prompts. Everything in the model but
attention works on tokens alone, so nothing is padded; attention reads this plan (``attend``).
"""

from __future__ import annotations

from collections.abc import Sequence as Rows
from dataclasses import dataclass, field

import torch
from torch.nn import functional

from graftwork.serving.embedded.kv import Lane, Slab, States


@dataclass(frozen=True, slots=True)
class View:
    """Keys [first, last) of the cache, and which of them are seen."""

    first: int
    last: int
    mask: torch.Tensor | None
    """True where a key counts; None when no mask is needed."""


@dataclass(slots=True)
class DecodeGroup:
    """Decoding sequences of one slab: tokens [start, end) of the row."""

    slab: Slab
    start: int
    end: int
    rows: torch.Tensor
    """[n]: row of each sequence in the slab."""
    positions: torch.Tensor
    """[n]: where each token's key and value go."""
    lengths: tuple[int, ...]
    """Keys that each attends to, its own included."""
    whole: bool
    """The rows are 0…n-1 in order: a view serves."""
    views: dict[int, View] = field(default_factory=dict)
    """What is visible, by window."""

    def view(self, window: int) -> View:
        """The keys that some of them see, and which of them each sees: the last ``window``; 0 for all."""
        if window not in self.views:
            first = max(0, min(self.lengths) - window) if window else 0
            last = max(self.lengths)
            at = torch.arange(first, last, device=self.positions.device)
            seen = at <= self.positions[:, None]
            if window:
                seen &= at > self.positions[:, None] - window
            all_seen = min(self.lengths) == last and (not window or last - first <= window)
            self.views[window] = View(first, last, None if all_seen else seen[:, None, None])
        return self.views[window]


@dataclass(slots=True)
class PrefillChunk:
    """A chunk of one sequence's prompt: tokens [start, end) of the row, positions [offset, offset + n)."""

    lane: Lane
    start: int
    end: int
    offset: int
    views: dict[int, View] = field(default_factory=dict)
    """What is visible, by window."""

    def view(self, window: int, device: torch.device) -> View:
        """The keys that its tokens see; a mask of None means plainly causal, of a first chunk."""
        if window not in self.views:
            self.views[window] = self._view(window, device)
        return self.views[window]

    def _view(self, window: int, device: torch.device) -> View:
        last = self.offset + self.end - self.start
        first = max(0, self.offset + 1 - window) if window else 0
        if self.offset == 0 and (not window or last <= window):
            return View(0, last, None)
        own = torch.arange(self.offset, last, device=device)[:, None]
        at = torch.arange(first, last, device=device)
        seen = at <= own
        if window:
            seen &= at > own - window
        return View(first, last, seen)


@dataclass(slots=True)
class Batch:
    """One iteration's plan."""

    tokens: torch.Tensor
    """[1, T] int64."""
    positions: torch.Tensor
    """[1, T] int64."""
    rows: torch.Tensor
    """[n]: row of each decoding sequence in the states, in the order of their tokens."""
    states: States | None = None
    decodes: list[DecodeGroup] = field(default_factory=list)
    prefills: list[PrefillChunk] = field(default_factory=list)


class Now:
    """The iteration that is being computed: one object, shared by all modules that must know."""

    def __init__(self) -> None:
        self._batch: Batch | None = None

    @property
    def batch(self) -> Batch:
        """Its plan."""
        assert self._batch is not None, "the model computes only within compute()"
        return self._batch

    def begin(self, batch: Batch) -> None:
        """A new iteration."""
        self._batch = batch

    def end(self) -> None:
        """It is over."""
        self._batch = None


@dataclass(frozen=True, slots=True)
class Segment:
    """What the scheduler asks to compute of one sequence: ``tokens`` after the ``lane.length`` it has."""

    lane: Lane
    tokens: Rows[int]
    decode: bool
    """One token, of a sequence whose prompt is done."""


def lay_out(segments: Rows[Segment], device: torch.device, states: States | None = None) -> Batch:
    """Build the plan of an iteration; ``segments`` must be in ``order``. Lanes must have room already."""
    tokens: list[int] = []
    positions: list[int] = []
    groups: dict[int, list[tuple[int, Lane]]] = {}
    chunks: list[PrefillChunk] = []
    for segment in segments:
        start, lane = len(tokens), segment.lane
        tokens.extend(segment.tokens)
        lane.dirty = lane.length + len(segment.tokens)
        positions.extend(range(lane.length, lane.dirty))
        if segment.decode:
            groups.setdefault(lane.slab.capacity, []).append((start, lane))
        else:
            chunks.append(PrefillChunk(lane, start, len(tokens), lane.length))
    return Batch(
        tokens=torch.tensor([tokens], device=device),
        positions=torch.tensor([positions], device=device),
        rows=torch.tensor([s.lane.state for s in segments if s.decode], dtype=torch.int64, device=device),
        states=states,
        decodes=[_group(members, device) for members in groups.values()],
        prefills=chunks,
    )


def order(segment: Segment) -> tuple[bool, int, int]:
    """Sort key that puts decoding sequences of one slab side by side, in the order of their rows."""
    if not segment.decode:
        return (True, 0, 0)
    return (False, segment.lane.slab.capacity, segment.lane.row)


def _group(members: list[tuple[int, Lane]], device: torch.device) -> DecodeGroup:
    lanes = [lane for _, lane in members]
    return DecodeGroup(
        slab=lanes[0].slab,
        start=members[0][0],
        end=members[-1][0] + 1,
        rows=torch.tensor([lane.row for lane in lanes], device=device),
        positions=torch.tensor([lane.length for lane in lanes], device=device),
        lengths=tuple(lane.length + 1 for lane in lanes),
        whole=[lane.row for lane in lanes] == list(range(len(lanes))),
    )


@dataclass(frozen=True, slots=True)
class How:
    """What is particular to a layer's attention.

    Attributes:
        window: how many keys a token sees, itself included; 0 for all.
        sinks: [heads], a score of each head that takes part in the softmax and has no value (gpt-oss).
    """

    scaling: float
    window: int = 0
    sinks: torch.Tensor | None = None


def attend(
    batch: Batch,
    layer: int,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    how: How,
) -> torch.Tensor:
    """Write the batch's keys and values into the cache and attend, each sequence to itself alone.

    Args:
        layer: place among the layers that have keys.
        query: [1, heads, T, dim], rotated.
        key: [1, kv heads, T, dim], rotated; ``value`` likewise.

    Returns:
        [1, T, heads, dim].
    """
    heads, count, dim = query.shape[1:]
    out = query.new_empty(count, heads, dim)
    for group in batch.decodes:
        span = slice(group.start, group.end)
        cached = group.slab.layers[layer]
        cached[0][group.rows, :, group.positions] = key[0, :, span].transpose(0, 1)
        cached[1][group.rows, :, group.positions] = value[0, :, span].transpose(0, 1)
        out[span] = _decode(group, cached, query[0, :, span].transpose(0, 1), how)
    for chunk in batch.prefills:
        span = slice(chunk.start, chunk.end)
        cached, row = chunk.lane.slab.layers[layer], chunk.lane.row
        end = chunk.offset + chunk.end - chunk.start
        cached[0, row, :, chunk.offset : end] = key[0, :, span]
        cached[1, row, :, chunk.offset : end] = value[0, :, span]
        view = chunk.view(how.window, query.device)
        known = cached[:, row : row + 1, :, view.first : view.last]
        attended = _attended(query[:, :, span], known, view.mask, how, causal=view.mask is None)
        out[span] = attended[0].transpose(0, 1)
    return out[None]


def _decode(group: DecodeGroup, cached: torch.Tensor, query: torch.Tensor, how: How) -> torch.Tensor:
    """[n, heads, dim]: one token each. Query heads that share a key head stand where tokens would."""
    count, heads, dim = query.shape
    view = group.view(how.window)
    known = cached[:, :count, :, view.first : view.last]
    if not group.whole:
        known = cached[:, :, :, view.first : view.last].index_select(1, group.rows)
    kv_heads = cached.shape[2]
    shared = query.reshape(count, kv_heads, heads // kv_heads, dim)
    if how.sinks is not None:
        return _with_sinks(shared, known, view.mask, how, how.sinks.view(kv_heads, -1, 1)).reshape(
            count, heads, dim
        )
    return _attended(shared, known, view.mask, how, causal=False).reshape(count, heads, dim)


def _attended(
    query: torch.Tensor, known: torch.Tensor, mask: torch.Tensor | None, how: How, *, causal: bool
) -> torch.Tensor:
    """[n, heads, t, dim]: attention to ``known`` [2, n, kv heads, length, dim]."""
    if how.sinks is None:
        return functional.scaled_dot_product_attention(
            query, known[0], known[1], attn_mask=mask, is_causal=causal, scale=how.scaling, enable_gqa=True
        )
    if causal:
        mask = torch.ones(query.shape[2], known.shape[3], dtype=torch.bool, device=query.device).tril()
    known = known.repeat_interleave(query.shape[1] // known.shape[2], dim=2)
    return _with_sinks(query, known, mask, how, how.sinks.view(-1, 1, 1))


def _with_sinks(
    query: torch.Tensor, known: torch.Tensor, mask: torch.Tensor | None, how: How, sinks: torch.Tensor
) -> torch.Tensor:
    """Attention with a score of each head that takes its share and gives nothing."""
    scores = query @ known[0].transpose(-1, -2) * how.scaling
    if mask is not None:
        scores = scores.masked_fill(~mask, float("-inf"))
    shares = torch.cat([scores, sinks.to(scores).expand(*scores.shape[:-1], 1)], dim=-1).softmax(dim=-1)
    return shares[..., :-1] @ known[1]
