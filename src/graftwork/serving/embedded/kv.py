"""Keys and values of running sequences, in slabs of equal capacity.

A slab holds rows of one capacity (a power of two of tokens), compact from row 0, so that all its
decoding sequences attend in one call over a view and nothing is gathered. A sequence that outgrows its
slab moves to the next one: each token is copied less than once on average, and at most half of a row is
unused.

Rows are zeroed when they are given back: no customer's keys stay in memory, and a NaN that one sequence
made cannot reach another through the masked part of a row (a masked score times NaN is NaN).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

SMALLEST = 64
"""Tokens in a row of the smallest slab."""


def capacity_for(tokens: int) -> int:
    """Capacity of the slab that holds ``tokens``."""
    return max(SMALLEST, 1 << (tokens - 1).bit_length())


@dataclass(frozen=True, slots=True)
class KVShape:
    """What one token needs: ``layers`` times two (key, value) of [``heads``, ``dim``]."""

    layers: int
    heads: int
    dim: int
    dtype: torch.dtype
    device: torch.device

    @property
    def bytes_per_token(self) -> int:
        """Bytes of one token over all layers."""
        return self.layers * 2 * self.heads * self.dim * self.dtype.itemsize


@dataclass(frozen=True, slots=True)
class StateShape:
    """What one sequence needs in layers that have states instead of keys, whatever its length.

    Attributes:
        recent: [channels, inputs] that a layer's convolution still needs.
        matrix: [heads, key dim, value dim] of a layer's memory, in float32.
    """

    layers: int
    recent: tuple[int, int]
    matrix: tuple[int, int, int]
    dtype: torch.dtype
    device: torch.device

    @property
    def bytes_per_sequence(self) -> int:
        """Bytes of one sequence over all layers."""
        one = math.prod(self.recent) * self.dtype.itemsize + math.prod(self.matrix) * 4
        return self.layers * one


class States:
    """States of running sequences: a row for each, all zeros when it is given out.

    Attributes:
        recent: per layer [rows, channels, inputs]; matrix: per layer [rows, heads, key dim, value dim].
    """

    def __init__(self, shape: StateShape) -> None:
        self._shape = shape
        self._clear()

    def _clear(self) -> None:
        shape = self._shape
        self._free: list[int] = []
        self._rows = 0
        self.recent = self._none(shape.recent, shape.dtype)
        self.matrix = self._none(shape.matrix, torch.float32)

    def _none(self, size: tuple[int, ...], dtype: torch.dtype) -> list[torch.Tensor]:
        return [torch.zeros(0, *size, dtype=dtype, device=self._shape.device)] * self._shape.layers

    def open(self) -> int:
        """A row for a new sequence."""
        if not self._free:
            more = max(4, self._rows // 2)
            for tensors in (self.recent, self.matrix):
                for index, old in enumerate(tensors):
                    tensors[index] = torch.cat([old, old.new_zeros(more, *old.shape[1:])])
            self._free = list(range(self._rows, self._rows + more))[::-1]
            self._rows += more
        return self._free.pop()

    def close(self, row: int) -> None:
        """Zero a row and take it back; the last one frees the memory of all."""
        for tensor in (*self.recent, *self.matrix):
            tensor[row] = 0
        self._free.append(row)
        if len(self._free) == self._rows:
            self._clear()


class Lane:
    """One sequence's place: row ``row`` of ``slab``. ``length`` tokens of it are computed.

    ``dirty`` tokens may have been written, ``length`` of them for good: an iteration that breaks leaves more.
    ``state`` is its row of the states, where the model has such layers.
    """

    __slots__ = ("dirty", "length", "row", "slab", "state")

    def __init__(self, slab: Slab, row: int) -> None:
        self.slab = slab
        self.row = row
        self.length = self.dirty = 0
        self.state = -1


class Slab:
    """Rows of one capacity: per layer a tensor [2, rows, heads, capacity, dim]."""

    def __init__(self, shape: KVShape, capacity: int) -> None:
        self.capacity = capacity
        self.lanes: list[Lane] = []
        self._shape = shape
        self.layers = [self._zeros(0) for _ in range(shape.layers)]

    def _zeros(self, rows: int) -> torch.Tensor:
        shape = self._shape
        size = (2, rows, shape.heads, self.capacity, shape.dim)
        return torch.zeros(size, dtype=shape.dtype, device=shape.device)

    def open(self) -> Lane:
        """A row for a new sequence, all zeros."""
        lane = Lane(self, len(self.lanes))
        if lane.row == self.layers[0].shape[1]:
            fewest = 4 if self.capacity <= 512 else 1
            self._grow(max(fewest, lane.row + max(1, lane.row // 2)))
        self.lanes.append(lane)
        return lane

    def _grow(self, rows: int) -> None:
        for index, old in enumerate(self.layers):
            new = self._zeros(rows)
            new[:, : old.shape[1]] = old
            self.layers[index] = new

    def take(self, lane: Lane, other: Lane) -> None:
        """Copy what ``other``, of another slab, holds into ``lane``."""
        lane.length = other.length
        for mine, theirs in zip(self.layers, other.slab.layers, strict=True):
            mine[:, lane.row, :, : other.length] = theirs[:, other.row, :, : other.length]

    def close(self, lane: Lane) -> None:
        """Zero a row and keep the rest compact: the last row moves into the hole."""
        last = self.lanes.pop()
        for layer in self.layers:
            if last is not lane:
                span = max(lane.dirty, last.dirty)
                layer[:, lane.row, :, :span] = layer[:, last.row, :, :span]
            layer[:, last.row, :, : last.dirty] = 0
        if last is not lane:
            last.row = lane.row
            self.lanes[lane.row] = last
        if not self.lanes:
            self.layers = [self._zeros(0) for _ in self.layers]


class KVCache:
    """All slabs of one engine. Used by the compute thread alone."""

    def __init__(self, shape: KVShape, state: StateShape | None = None) -> None:
        self.shape = shape
        self.states = States(state) if state is not None else None
        self._slabs: dict[int, Slab] = {}

    def open(self, tokens: int) -> Lane:
        """A lane with room for ``tokens``."""
        lane = self._slab(tokens).open()
        if self.states is not None:
            lane.state = self.states.open()
        return lane

    def reserve(self, lane: Lane, tokens: int) -> None:
        """Make room for ``tokens`` in a lane, moving it to a larger slab if it must."""
        if tokens <= lane.slab.capacity:
            return
        slab = self._slab(tokens)
        moved = slab.open()
        slab.take(moved, lane)
        lane.slab.close(lane)
        slab.lanes[moved.row] = lane
        lane.slab, lane.row, lane.dirty = slab, moved.row, lane.length

    def close(self, lane: Lane) -> None:
        """Give a lane back."""
        lane.slab.close(lane)
        if self.states is not None:
            self.states.close(lane.state)

    def _slab(self, tokens: int) -> Slab:
        capacity = capacity_for(tokens)
        if capacity not in self._slabs:
            self._slabs[capacity] = Slab(self.shape, capacity)
        return self._slabs[capacity]
