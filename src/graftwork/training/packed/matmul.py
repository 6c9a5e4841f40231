"""Matrix products of packed tokens: with frozen weights, and with each adapter's own.

Frozen products on the CPU go through oneDNN where that is the faster library: PyTorch's own fp32 products are
MKL's, whose AVX-512 kernels run on Intel's processors alone (on a Zen 5 oneDNN was 2.3 times as fast).
``GRAFTWORK_GEMM=mkl`` or ``onednn`` decides by hand; it must not change within a run that is to be bit-equal.
"""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path

import torch
from torch.nn import functional

CHOICE = "GRAFTWORK_GEMM"
ALIGNED = 16
"""Bytes: what grouped_mm asks of strides."""


@cache
def prefers_onednn() -> bool:
    """Whether fp32 products on this CPU should go to oneDNN. Told from the processor, never timed: a run must
    find the same answer after a restart."""
    asked = os.environ.get(CHOICE)
    if asked or not torch.backends.mkldnn.is_available():
        return asked == "onednn"
    if torch.backends.cpu.get_cpu_capability() != "AVX512":
        return False
    try:
        return "AuthenticAMD" in Path("/proc/cpuinfo").read_text(errors="replace")
    except OSError:
        return False


def _through_onednn(x: torch.Tensor) -> bool:
    return x.device.type == "cpu" and x.dtype is torch.float32 and prefers_onednn()


def times(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    """``x [t, in] @ weightᵀ + bias`` for ``weight [out, in]``: [t, out]. No gradient."""
    if _through_onednn(x):
        # of any other layout oneDNN computes number by number, a hundred times as slowly
        return torch.ops.mkldnn._linear_pointwise(x.contiguous(), _dense(weight), bias, "none", [], "")
    return torch.mm(x, weight.t()) if bias is None else torch.addmm(bias, x, weight.t())


def _dense(matrix: torch.Tensor) -> torch.Tensor:
    """The matrix, by rows or by columns, without gaps between them."""
    if matrix.is_contiguous() or matrix.t().is_contiguous():
        return matrix
    return matrix.contiguous() if matrix.stride(1) == 1 else matrix.t().contiguous().t()


def grouped(x: torch.Tensor, weights: torch.Tensor, ends: torch.Tensor | None) -> torch.Tensor:
    """Each group of rows of ``x [t, in]`` times its own of ``weights [groups, in, out]``: [t, out].

    Args:
        ends: int32 [groups], where each group's rows end; None: all groups are of one size.
    """
    groups = weights.shape[0]
    if groups == 1:
        return times(x, weights[0].t())
    if ends is None:
        return torch.bmm(x.unflatten(0, (groups, -1)), weights).flatten(0, 1)
    return ragged(x, weights, ends)


def grouped_into_(
    into: torch.Tensor, x: torch.Tensor, weights: torch.Tensor, ends: torch.Tensor | None
) -> None:
    """Add ``grouped(x, weights, ends)`` to ``into [t, out]``."""
    groups = weights.shape[0]
    if groups == 1:
        into.addmm_(x, weights[0])
    elif ends is None:
        into.unflatten(0, (groups, -1)).baddbmm_(x.unflatten(0, (groups, -1)), weights)
    else:
        into += ragged(x, weights, ends)


def grouped_outer_(into: torch.Tensor, a: torch.Tensor, b: torch.Tensor, ends: torch.Tensor | None) -> None:
    """Add each group's ``aᵀ b`` to its own of ``into [groups, m, n]``; ``a [t, m]``, ``b [t, n]``.

    A group's number depends on its own rows alone: what a neighbour has, NaN included, stays there.
    """
    groups = into.shape[0]
    if groups == 1 and a.shape[1] > b.shape[1]:
        into[0].t().add_(times(b.t(), a.t()))  # a product is quicker with the narrow matrix first
    elif groups == 1:
        into[0].add_(times(a.t(), b.t()))
    elif ends is None:
        into.add_(torch.bmm(a.unflatten(0, (groups, -1)).transpose(1, 2), b.unflatten(0, (groups, -1))))
    else:
        into.add_(ragged_outer(a, b, ends))


def ragged(x: torch.Tensor, weights: torch.Tensor, ends: torch.Tensor) -> torch.Tensor:
    """``grouped`` for groups of unlike size, of any width."""
    wide = _wide(_wide(weights, 1), 2)
    return functional.grouped_mm(_wide(x.contiguous(), 1), wide, offs=ends)[:, : weights.shape[2]]


def ragged_outer(a: torch.Tensor, b: torch.Tensor, ends: torch.Tensor) -> torch.Tensor:
    """[groups, m, n]: each group's ``aᵀ b``, of rows of ``a [t, m]`` and ``b [t, n]``."""
    made = functional.grouped_mm(_wide(a.contiguous(), 1).t(), _wide(b.contiguous(), 1), offs=ends)
    return made[:, : a.shape[1], : b.shape[1]]


def _wide(matrix: torch.Tensor, side: int) -> torch.Tensor:
    """``matrix`` with zeros behind this side up to what grouped_mm takes: 6 is too narrow for it."""
    missing = -matrix.shape[side] % (ALIGNED // matrix.element_size())
    if not missing:
        return matrix
    return functional.pad(matrix, (0, 0) * (matrix.dim() - 1 - side) + (0, missing))
