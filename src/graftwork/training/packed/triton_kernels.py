"""The element-wise parts on CUDA, one pass over memory each: ``kernels.c`` written in Triton.

``elementwise.py`` says what each computes and does it with PyTorch where this is not to be had. Numbers are
read in the precision of their tensor, computed in fp32 and rounded once, but for the norm, which rounds
before its weight too, as the models do. ``make lane-triton`` runs all in Triton's interpreter on a CPU,
``make test-gpu`` on the real thing.
"""

# Triton is installed where there is a GPU.
# pyright: reportMissingImports=false
from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import torch
import triton
import triton.language as tl

WIDE = 1024
"""Numbers of one program of ``gate``, and of one look at a row of logits."""


class Launched(Protocol):
    """A kernel; indexed by how many programs there are, it can be called."""

    def __getitem__(self, programs: tuple[int, ...]) -> Callable[..., None]: ...

    def __call__(self, *values: Any) -> Any:
        """As a part of another kernel."""
        ...


def jit(function: Callable[..., Any]) -> Launched:
    """Triton's, which says nothing of types."""
    return triton.jit(function)


@jit
def _read(pointer: tl.tensor, inside: tl.tensor) -> tl.tensor:
    return tl.load(pointer, mask=inside, other=0.0).to(tl.float32)


@jit
def _norm(
    x: tl.tensor,
    weight: tl.tensor,
    out: tl.tensor,
    scale: tl.tensor,
    width: int,
    eps: float,
    block: tl.constexpr,
) -> None:
    row = tl.program_id(0).to(tl.int64)
    at = tl.arange(0, block)
    inside = at < width
    value = _read(x + row * width + at, inside)
    share = 1.0 / tl.sqrt(tl.sum(value * value, 0) / width + eps)
    tl.store(scale + row, share)
    factor = _read(weight + at, inside)
    rounded = (value * share).to(out.dtype.element_ty).to(tl.float32)
    tl.store(out + row * width + at, (rounded * factor).to(out.dtype.element_ty), mask=inside)


@jit
def _norm_back(
    slope: tl.tensor,
    x: tl.tensor,
    weight: tl.tensor,
    scale: tl.tensor,
    out: tl.tensor,
    width: int,
    block: tl.constexpr,
) -> None:
    row = tl.program_id(0).to(tl.int64)
    at = tl.arange(0, block)
    inside = at < width
    share = tl.load(scale + row).to(tl.float32)
    unit = _read(x + row * width + at, inside) * share
    factor = _read(weight + at, inside)
    weighted = _read(slope + row * width + at, inside) * factor
    mean = tl.sum(weighted * unit, 0) / width
    tl.store(out + row * width + at, ((weighted - unit * mean) * share).to(out.dtype.element_ty), mask=inside)


@jit
def _turn(
    x: tl.tensor,
    stride: int,
    cosine: tl.tensor,
    sine: tl.tensor,
    weight: tl.tensor,
    out: tl.tensor,
    scale: tl.tensor,
    heads: int,
    size: int,
    eps: float,
    normed: tl.constexpr,
    block: tl.constexpr,
) -> None:
    token, head = tl.program_id(0).to(tl.int64), tl.program_id(1)
    half = size // 2
    at = tl.arange(0, block)
    inside = at < half
    begin, to = x + token * stride + head * size, out + (token * heads + head) * size
    one = _read(begin + at, inside)
    two = _read(begin + half + at, inside)
    if normed:
        share = 1.0 / tl.sqrt((tl.sum(one * one, 0) + tl.sum(two * two, 0)) / size + eps)
        tl.store(scale + token * heads + head, share)
        one *= share * _read(weight + at, inside)
        two *= share * _read(weight + half + at, inside)
    c = _read(cosine + token * size + at, inside)
    s = _read(sine + token * size + at, inside)
    tl.store(to + at, (one * c - two * s).to(out.dtype.element_ty), mask=inside)
    tl.store(to + half + at, (two * c + one * s).to(out.dtype.element_ty), mask=inside)


@jit
def _turn_back(
    slope: tl.tensor,
    x: tl.tensor,
    stride: int,
    cosine: tl.tensor,
    sine: tl.tensor,
    weight: tl.tensor,
    scale: tl.tensor,
    out: tl.tensor,
    out_stride: int,
    heads: int,
    size: int,
    normed: tl.constexpr,
    block: tl.constexpr,
) -> None:
    token, head = tl.program_id(0).to(tl.int64), tl.program_id(1)
    half = size // 2
    at = tl.arange(0, block)
    inside = at < half
    come, to = slope + (token * heads + head) * size, out + token * out_stride + head * size
    one = _read(come + at, inside)
    two = _read(come + half + at, inside)
    c = _read(cosine + token * size + at, inside)
    s = _read(sine + token * size + at, inside)
    low, high = one * c + two * s, two * c - one * s
    if normed:
        share = tl.load(scale + token * heads + head).to(tl.float32)
        begin = x + token * stride + head * size
        low *= _read(weight + at, inside)
        high *= _read(weight + half + at, inside)
        first = _read(begin + at, inside) * share
        second = _read(begin + half + at, inside) * share
        mean = (tl.sum(low * first, 0) + tl.sum(high * second, 0)) / size
        low, high = (low - first * mean) * share, (high - second * mean) * share
    tl.store(to + at, low.to(out.dtype.element_ty), mask=inside)
    tl.store(to + half + at, high.to(out.dtype.element_ty), mask=inside)


@jit
def _gate(both: tl.tensor, out: tl.tensor, half: int, block: tl.constexpr) -> None:
    row = tl.program_id(0).to(tl.int64)
    at = tl.program_id(1) * block + tl.arange(0, block)
    inside = at < half
    left = _read(both + row * 2 * half + at, inside)
    right = _read(both + row * 2 * half + half + at, inside)
    tl.store(out + row * half + at, (left * tl.sigmoid(left) * right).to(out.dtype.element_ty), mask=inside)


@jit
def _gate_back(slope: tl.tensor, both: tl.tensor, half: int, block: tl.constexpr) -> None:
    row = tl.program_id(0).to(tl.int64)
    at = tl.program_id(1) * block + tl.arange(0, block)
    inside = at < half
    into = both + row * 2 * half + at
    left = _read(into, inside)
    right = _read(into + half, inside)
    back = _read(slope + row * half + at, inside)
    share = tl.sigmoid(left)
    toward = back * right * share * (1.0 + left * (1.0 - share))
    tl.store(into, toward.to(both.dtype.element_ty), mask=inside)
    tl.store(into + half, (back * left * share).to(both.dtype.element_ty), mask=inside)


@jit
def _answer(
    logits: tl.tensor,
    targets: tl.tensor,
    slopes: tl.tensor,
    losses: tl.tensor,
    hits: tl.tensor,
    width: int,
    sloped: tl.constexpr,
    block: tl.constexpr,
) -> None:
    """Softmax in two looks at a row (Milakov & Gimelshein 2018, arXiv:1805.02867)."""
    row = tl.program_id(0).to(tl.int64)
    mine, target = logits + row * width, tl.load(targets + row)
    chosen = tl.load(mine + target)
    at = tl.arange(0, block)
    best, total = float("-inf"), 0.0
    for start in range(0, width, block):
        value = tl.load(mine + start + at, mask=start + at < width, other=float("-inf"))
        higher = tl.maximum(best, tl.max(value, 0))
        total = total * tl.exp(best - higher) + tl.sum(tl.exp(value - higher), 0)
        best = higher
    tl.store(losses + row, tl.log(total) + best - chosen)
    tl.store(hits + row, chosen == best)
    if sloped:
        slope = tl.load(slopes + row)
        for start in range(0, width, block):
            inside = start + at < width
            value = tl.load(mine + start + at, mask=inside, other=float("-inf"))
            share = tl.exp(value - best) / total - tl.where(start + at == target, 1.0, 0.0)
            tl.store(mine + start + at, slope * share, mask=inside)


Value = torch.Tensor | int | float | None


def _or(given: Value, other: Value) -> Value:
    """A null pointer has no type: another stands for it, and is not looked at."""
    return other if given is None else given


def _halves(size: int, weight: Value) -> dict[str, Any]:
    return {"normed": weight is not None, "block": triton.next_power_of_2(size // 2)}


def _turns(*values: Any) -> None:
    x, stride, cosine, sine, weight, out, scale, tokens, heads, size, eps = values
    given = (_or(weight, x), out, _or(scale, x), heads, size, eps)
    _turn[tokens, heads](x, stride, cosine, sine, *given, **_halves(size, weight))


def _turns_back(*values: Any) -> None:
    slope, x, stride, cosine, sine, weight, scale, out, out_stride, tokens, heads, size = values
    given = (_or(weight, x), _or(scale, x), out, out_stride, heads, size)
    _turn_back[tokens, heads](slope, x, stride, cosine, sine, *given, **_halves(size, weight))


_CALLS: dict[str, Any] = {
    "norm": lambda x, weight, out, scale, rows, width, eps: _norm[(rows,)](
        x, weight, out, scale, width, eps, block=triton.next_power_of_2(width)
    ),
    "norm_back": lambda slope, x, weight, scale, out, rows, width: _norm_back[(rows,)](
        slope, x, weight, scale, out, width, block=triton.next_power_of_2(width)
    ),
    "turn": _turns,
    "turn_back": _turns_back,
    "gate": lambda both, out, rows, half: _gate[rows, triton.cdiv(half, WIDE)](both, out, half, block=WIDE),
    "gate_back": lambda slope, both, rows, half: _gate_back[rows, triton.cdiv(half, WIDE)](
        slope, both, half, block=WIDE
    ),
    "answer": lambda logits, targets, slopes, losses, hits, rows, width: _answer[(rows,)](
        logits, targets, _or(slopes, losses), losses, hits, width, sloped=slopes is not None, block=WIDE
    ),
}


def run(name: str, *values: Value) -> None:
    """Run kernel ``name``; arguments as those of the kernel of that name in ``kernels.c``."""
    _CALLS[name](*values)


def trial(device: torch.device, kind: torch.dtype) -> None:
    """Run every kernel once on ones. Raises whatever Triton does where it cannot compile for this device."""
    x, one = torch.ones(2, 1, 8, device=device, dtype=kind), torch.ones(2, 8, device=device)
    flat, scale, out = x.flatten(1), one[:, :1].contiguous(), torch.empty_like(x)
    for weight in (None, flat[0]):
        run("turn", x, 8, one, one, weight, out, scale, 2, 1, 8, 1e-6)
        run("turn_back", x, x, 8, one, one, weight, scale, out, 8, 2, 1, 8)
    run("norm", flat, flat[0], out, scale, 2, 8, 1e-6)
    run("norm_back", flat, flat, flat[0], scale, out, 2, 8)
    run("gate", flat, out, 2, 4)
    run("gate_back", out.flatten(1)[:, :4].contiguous(), flat.clone(), 2, 4)
    targets, hits = (
        torch.zeros(2, device=device, dtype=torch.long),
        torch.empty(2, device=device, dtype=torch.bool),
    )
    for slopes in (None, scale):
        run("answer", one.clone(), targets, slopes, one[:, 0].clone(), hits, 2, 8)
