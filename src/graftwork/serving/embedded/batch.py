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

from graftwork.serving.embedded.kv import Lane, Slab


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
    longest: int
    """Keys that the longest of them attends to."""
    mask: torch.Tensor | None
    """[n, 1, 1, longest]: True where a key counts; None when all do."""
    whole: bool
    """The rows are 0…n-1 in order: a view serves."""


@dataclass(slots=True)
class PrefillChunk:
    """A chunk of one sequence's prompt: tokens [start, end) of the row, positions [offset, offset + n)."""

    lane: Lane
    start: int
    end: int
    offset: int
    mask: torch.Tensor | None
    """[n, offset + n]: True where a key counts; None for a first chunk, which is plainly causal."""


@dataclass(slots=True)
class Batch:
    """One iteration's plan."""

    tokens: torch.Tensor
    """[1, T] int64."""
    positions: torch.Tensor
    """[1, T] int64."""
    decodes: list[DecodeGroup] = field(default_factory=list)
    prefills: list[PrefillChunk] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Segment:
    """What the scheduler asks to compute of one sequence: ``tokens`` after the ``lane.length`` it has."""

    lane: Lane
    tokens: Rows[int]
    decode: bool
    """One token, of a sequence whose prompt is done."""


def lay_out(segments: Rows[Segment], device: torch.device) -> Batch:
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
            chunks.append(_chunk(lane, start, len(tokens), device))
    return Batch(
        tokens=torch.tensor([tokens], device=device),
        positions=torch.tensor([positions], device=device),
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
    positions = torch.tensor([lane.length for lane in lanes], device=device)
    longest = max(lane.length for lane in lanes) + 1
    mask = None
    if any(lane.length + 1 < longest for lane in lanes):
        mask = (torch.arange(longest, device=device) <= positions[:, None])[:, None, None]
    return DecodeGroup(
        slab=lanes[0].slab,
        start=members[0][0],
        end=members[-1][0] + 1,
        rows=torch.tensor([lane.row for lane in lanes], device=device),
        positions=positions,
        longest=longest,
        mask=mask,
        whole=[lane.row for lane in lanes] == list(range(len(lanes))),
    )


def _chunk(lane: Lane, start: int, end: int, device: torch.device) -> PrefillChunk:
    offset, count = lane.length, end - start
    mask = None
    if offset:
        mask = torch.ones(count, offset + count, dtype=torch.bool, device=device).tril(diagonal=offset)
    return PrefillChunk(lane, start, end, offset, mask)


def attend(
    batch: Batch, layer: int, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scaling: float
) -> torch.Tensor:
    """Write the batch's keys and values into the cache and attend, each sequence to itself alone.

    Args:
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
        out[span] = _decode(group, cached, query[0, :, span].transpose(0, 1), scaling)
    for chunk in batch.prefills:
        span = slice(chunk.start, chunk.end)
        cached, row = chunk.lane.slab.layers[layer], chunk.lane.row
        end = chunk.offset + chunk.end - chunk.start
        cached[0, row, :, chunk.offset : end] = key[0, :, span]
        cached[1, row, :, chunk.offset : end] = value[0, :, span]
        attended = functional.scaled_dot_product_attention(
            query[:, :, span],
            cached[0, row : row + 1, :, :end],
            cached[1, row : row + 1, :, :end],
            attn_mask=chunk.mask,
            is_causal=chunk.mask is None,
            scale=scaling,
            enable_gqa=True,
        )
        out[span] = attended[0].transpose(0, 1)
    return out[None]


def _decode(group: DecodeGroup, cached: torch.Tensor, query: torch.Tensor, scaling: float) -> torch.Tensor:
    """[n, heads, dim]: one token each. Query heads that share a key head stand where tokens would."""
    count, heads, dim = query.shape
    known = cached[:, :count, :, : group.longest]
    if not group.whole:
        known = cached[:, :, :, : group.longest].index_select(1, group.rows)
    kv_heads = cached.shape[2]
    attended = functional.scaled_dot_product_attention(
        query.reshape(count, kv_heads, heads // kv_heads, dim),
        known[0],
        known[1],
        attn_mask=group.mask,
        scale=scaling,
    )
    return attended.reshape(count, heads, dim)
