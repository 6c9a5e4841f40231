"""Block quantization as llama.cpp does it without an importance matrix (``ggml-quants.c``, ``*_ref``).

Each function takes float32 rows [n, width] and gives the blocks' bytes, uint8 [n, bytes of a row]. They
follow the reference step for step, vectorised over blocks; where a C compiler sums in another order a level
may differ by one. The k-quants search a scale per sub-block that minimises the weighted squared error.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Bytes = NDArray[np.uint8]

_EPS = np.float32(1e-15)
_SUPER = 256
"""Weights of a k-quant's block."""
_CHUNK = 1 << 14
"""Blocks quantized together: some tens of megabytes of intermediate values."""


def q8_0(rows: Floats) -> Bytes:
    """8 bits and an f16 scale for every 32 weights."""
    blocks = rows.reshape(-1, 32)
    scale = np.abs(blocks).max(axis=1, keepdims=True) / np.float32(127)
    levels = _away_from_zero(blocks * _inverse(scale))
    return _rows(rows, [_half(scale[:, 0]), levels.astype(np.int8).view(np.uint8)])


def q5_0(rows: Floats) -> Bytes:
    """5 bits and an f16 scale for every 32 weights; for rows that are no multiple of 256."""
    blocks = rows.reshape(-1, 32)
    scale = _extreme(blocks) / np.float32(-16)
    levels = np.minimum(31, np.trunc(blocks * _inverse(scale) + np.float32(16.5))).astype(np.uint8)
    low = (levels[:, :16] & 0x0F) | ((levels[:, 16:] & 0x0F) << 4)
    high = np.packbits(levels >> 4, axis=1, bitorder="little")
    return _rows(rows, [_half(scale[:, 0]), high, low])


def q4_k(rows: Floats) -> Bytes:
    """4 bits, and 6-bit scales and minima for every 32 weights under two f16 scales for every 256."""
    return _chunked(rows, _q4_k)


def q6_k(rows: Floats) -> Bytes:
    """6 bits, and 8-bit scales for every 16 weights under an f16 scale for every 256."""
    return _chunked(rows, _q6_k)


def _chunked(rows: Floats, quantize: Callable[[Floats], Bytes]) -> Bytes:
    blocks = rows.reshape(-1, _SUPER)
    parts = [quantize(blocks[start : start + _CHUNK]) for start in range(0, len(blocks), _CHUNK)]
    return np.concatenate(parts).reshape(len(rows), -1)


def _q4_k(blocks: Floats) -> Bytes:
    parts = blocks.reshape(-1, 8, 32)
    average = np.sqrt((parts * parts).sum(axis=2, keepdims=True, dtype=np.float32) / np.float32(32))
    scales, minima, levels = _scale_and_minimum(parts, average + np.abs(parts))
    top_scale, top_minimum = (x.max(axis=1, keepdims=True).clip(0) for x in (scales, minima))
    small = np.minimum(63, np.rint(scales * (_inverse(top_scale) * np.float32(63)))).astype(np.uint8)
    small_min = np.minimum(63, np.rint(minima * (_inverse(top_minimum) * np.float32(63)))).astype(np.uint8)
    unit, unit_min = _half(top_scale[:, 0] / np.float32(63)), _half(top_minimum[:, 0] / np.float32(63))
    step = _single(unit)[:, None] * small
    offset = _single(unit_min)[:, None] * small_min
    again = np.rint((parts + offset[..., None]) * _inverse(step)[..., None]).clip(0, 15)
    levels = np.where(step[..., None] != 0, again, levels).astype(np.uint8)
    pairs = levels.reshape(-1, 4, 2, 32)
    packed = (pairs[:, :, 0] | (pairs[:, :, 1] << 4)).reshape(-1, 128)
    return _joined([unit, unit_min, _six_bits(small, small_min), packed])


def _six_bits(scales: Bytes, minima: Bytes) -> Bytes:
    """Eight 6-bit scales and eight 6-bit minima in 12 bytes."""
    first = scales[:, :4] | ((scales[:, 4:] >> 4) << 6)
    second = minima[:, :4] | ((minima[:, 4:] >> 4) << 6)
    third = (scales[:, 4:] & 0x0F) | ((minima[:, 4:] & 0x0F) << 4)
    return _joined([first, second, third])


def _scale_and_minimum(x: Floats, weights: Floats) -> tuple[Floats, Floats, Floats]:
    """Scale, minus the minimum and levels 0 to 15 of each part ``x[..., 32]`` (``make_qkx2_quants``)."""
    low, high = x.min(axis=-1).clip(max=0), x.max(axis=-1)
    sum_w, sum_x = weights.sum(axis=-1), (weights * x).sum(axis=-1)
    span = high - low

    def levels_at(reach: float, start: Floats) -> Floats:
        inverse = np.float32(reach) * _inverse(high - start)
        return np.rint((x - start[..., None]) * inverse[..., None]).clip(0, 15)

    def error_of(levels: Floats, scale: Floats, minimum: Floats) -> Floats:
        difference = scale[..., None] * levels + minimum[..., None] - x
        return (weights * difference * difference).sum(axis=-1)

    best = levels_at(15, low)
    scale, minimum = span / np.float32(15), low
    error = error_of(best, scale, minimum)
    for step in range(21):
        levels = levels_at(14 + 0.1 * step, minimum)  # around the best minimum so far
        weighted = weights * levels
        sum_l, sum_l2 = weighted.sum(axis=-1), (weighted * levels).sum(axis=-1)
        sum_xl = (weighted * x).sum(axis=-1)
        determinant = sum_w * sum_l2 - sum_l * sum_l
        solvable = determinant > 0
        one_over = _inverse(np.where(solvable, determinant, 0))
        new_scale = (sum_w * sum_xl - sum_x * sum_l) * one_over
        new_minimum = (sum_l2 * sum_x - sum_l * sum_xl) * one_over
        above = new_minimum > 0
        new_scale = np.where(above, sum_xl * _inverse(sum_l2), new_scale)
        new_minimum = np.where(above, np.float32(0), new_minimum)
        new_error = error_of(levels, new_scale, new_minimum)
        better = solvable & (new_error < error) & (span != 0)
        best = np.where(better[..., None], levels, best)
        scale, minimum = np.where(better, new_scale, scale), np.where(better, new_minimum, minimum)
        error = np.where(better, new_error, error)
    return scale, -minimum, best


def _q6_k(blocks: Floats) -> Bytes:
    parts = blocks.reshape(-1, 16, 16)
    scales, levels = _symmetric(parts)
    top = _extreme(scales)
    empty = np.abs(top) < _EPS
    inverse = np.where(empty, np.float32(0), np.float32(-128) * _inverse(top))
    unit = _half(np.where(empty, np.float32(0), _inverse(inverse))[:, 0])
    small = np.minimum(127, np.rint(inverse * scales)).astype(np.int8)
    step = _single(unit)[:, None] * small
    again = np.rint(parts * _inverse(step)[..., None]).clip(-32, 31)
    levels = np.where(step[..., None] != 0, again, levels)
    # An empty block is all zero bytes, its levels too.
    whole = np.where(empty[:, :, None], -32, levels).reshape(-1, 2, 4, 32)
    quarter = (whole + 32).astype(np.uint8)
    low = quarter & 0x0F
    ql = np.concatenate([low[:, :, 0] | (low[:, :, 2] << 4), low[:, :, 1] | (low[:, :, 3] << 4)], axis=2)
    top_bits = quarter >> 4
    qh = top_bits[:, :, 0] | (top_bits[:, :, 1] << 2) | (top_bits[:, :, 2] << 4) | (top_bits[:, :, 3] << 6)
    return _joined([ql.reshape(-1, 128), qh.reshape(-1, 64), small.view(np.uint8), unit])


def _symmetric(x: Floats) -> tuple[Floats, Floats]:
    """Scale and levels -32 to 31 of each part ``x[..., 16]``, errors weighted by x² (``make_qx_quants``)."""
    top = _extreme(x)
    empty = np.abs(top) < _EPS
    inverse = np.where(empty, np.float32(0), _inverse(top))
    weights = x * x

    def fit(reach: float) -> tuple[Floats, Floats, Floats]:
        levels = np.rint(x * (inverse * np.float32(-reach))).clip(-32, 31)
        weighted = weights * levels
        return levels, (weighted * x).sum(axis=-1), (weighted * levels).sum(axis=-1)

    levels, sum_lx, sum_l2 = fit(32)
    scale = sum_lx * _inverse(sum_l2)
    best = scale * sum_lx
    for step in range(-9, 10):
        if step == 0:
            continue
        new_levels, new_lx, new_l2 = fit(32 + 0.1 * step)
        better = (new_l2 > 0) & (new_lx * new_lx > best * new_l2)
        new_scale = new_lx * _inverse(new_l2)
        levels = np.where(better[..., None], new_levels, levels)
        best = np.where(better, new_scale * new_lx, best)
        scale = np.where(better, new_scale, scale)
    nothing = empty[..., 0]
    return np.where(nothing, np.float32(0), scale), np.where(nothing[..., None], np.float32(-32), levels)


def _extreme(x: Floats) -> Floats:
    """The value of greatest magnitude along the last axis (the first of equals), which stays."""
    index = np.abs(x).argmax(axis=-1)
    return np.take_along_axis(x, index[..., None], axis=-1)


def _inverse(x: Floats) -> Floats:
    """1/x, and 0 for 0."""
    with np.errstate(divide="ignore", over="ignore"):
        return np.where(x == 0, np.float32(0), np.float32(1) / np.where(x == 0, np.float32(1), x))


def _away_from_zero(x: Floats) -> Floats:
    """C's ``roundf``: halves go away from zero."""
    return np.trunc(x + np.copysign(np.float32(0.5), x))


def _half(x: Floats) -> Bytes:
    """Values [n] as the two bytes of an f16, [n, 2]."""
    return x.astype("<f2").reshape(-1, 1).view(np.uint8)


def _single(halves: Bytes) -> Floats:
    return np.ascontiguousarray(halves).view("<f2")[:, 0].astype(np.float32)


def _rows(rows: Floats, parts: Sequence[NDArray[Any]]) -> Bytes:
    return _joined(parts).reshape(len(rows), -1)


def _joined(parts: Sequence[NDArray[Any]]) -> Bytes:
    return np.concatenate(parts, axis=1).astype(np.uint8, copy=False)
