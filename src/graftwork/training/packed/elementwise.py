"""The element-wise parts of a Llama-shaped layer, forward and backward, as few passes over memory.

All take packed tokens [T, …] and compute in the precision of their input, norms in fp32 where it is lower.
Each is one call of a kernel where there is one (``kernels.py``; on CUDA ``triton_kernels.py``), else a few of
torch.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from functools import cache

import torch
from torch.nn import functional

from graftwork.training.packed.kernels import SETTING, kernels

log = logging.getLogger("graftwork.training")

PRECISIONS = {torch.float32, torch.bfloat16, torch.float16}
"""That Triton's kernels take."""


def kernel(x: torch.Tensor) -> Callable[..., None] | None:
    """What runs a kernel by name on ``x``: compiled C on a CPU, Triton on CUDA; None: torch does the work."""
    return _triton(x.device, x.dtype) if x.device.type == "cuda" else kernels(x)


@cache
def _triton(device: torch.device, kind: torch.dtype) -> Callable[..., None] | None:
    """Triton's kernels, if it is here and can compile them for this device."""
    if kind not in PRECISIONS or os.environ.get(SETTING) == "off":
        return None
    try:
        from graftwork.training.packed.triton_kernels import run, trial

        trial(device, kind)
    except Exception as error:  # compilers raise what they like
        log.warning("without Triton kernels: %s: %s", type(error).__name__, error)
        return None
    return run


def norm(x: torch.Tensor, weight: torch.Tensor, eps: float) -> tuple[torch.Tensor, torch.Tensor]:
    """RMSNorm (Zhang & Sennrich 2019, arXiv:1910.07467) of [T, width], and 1 / root mean square [T, 1]."""
    run = kernel(x)
    if run is not None:
        out, scale = x.new_empty(x.shape), x.new_empty(x.shape[0], 1, dtype=torch.float32)
        run("norm", x.contiguous(), weight, out, scale, *x.shape, eps)
        return out, scale
    scale = inverse_norm(x, eps)
    return norm_again(x, weight, scale), scale


def norm_again(x: torch.Tensor, weight: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """``norm`` with its second result given."""
    if x.dtype is torch.float32:
        return (x * scale).mul_(weight)
    return weight * (x.float() * scale).to(x.dtype)


def norm_back(
    slope: torch.Tensor, x: torch.Tensor, weight: torch.Tensor, scale: torch.Tensor
) -> torch.Tensor:
    """Gradient of ``norm`` toward x."""
    run = kernel(x)
    if run is not None:
        out = x.new_empty(x.shape)
        run("norm_back", slope.contiguous(), x.contiguous(), weight, scale, out, *x.shape)
        return out
    unit, weighted = x.float().mul(scale), slope.float().mul(weight.float())
    mean = (weighted * unit).mean(-1, keepdim=True)
    return torch.addcmul(weighted, unit, mean, value=-1.0).mul_(scale).to(x.dtype)


def inverse_norm(x: torch.Tensor, eps: float) -> torch.Tensor:
    """1 / root mean square over the last side, kept, fp32."""
    size = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=torch.float32)
    return size.square_().mul_(1.0 / x.shape[-1]).add_(eps).rsqrt_()


def turn(
    x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, weight: torch.Tensor | None, eps: float
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Rotary embedding (Su et al. 2021, arXiv:2104.09864) of ``x [T, heads, d]``, normalised before if
    there is a ``weight`` [d]; and what normalised it.

    Args:
        x: heads side by side; tokens may lie apart.
        cos: [T, d], both halves alike, as transformers makes them; so ``sin``.
    """
    out = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    run = kernel(x)
    if run is not None:
        scale = None if weight is None else x.new_empty(*x.shape[:2], 1, dtype=torch.float32)
        run("turn", x, x.stride(0), cos, sin, weight, out, scale, *x.shape, eps)
        return out, scale
    c1, c2, s1, s2 = _tables(cos, sin, weight)
    half = x.shape[-1] // 2
    one, two = x[..., :half], x[..., half:]
    torch.mul(one, c1, out=out[..., :half]).addcmul_(two, s2, value=-1.0)
    torch.mul(two, c2, out=out[..., half:]).addcmul_(one, s1)
    if weight is None:
        return out, None
    scale = inverse_norm(x, eps).to(x.dtype)
    return out.mul_(scale), scale


def turn_back_(
    out: torch.Tensor,
    slope: torch.Tensor,
    x: torch.Tensor,
    cos: torch.Tensor,
    sin: torch.Tensor,
    weight: torch.Tensor | None,
    scale: torch.Tensor | None,
) -> None:
    """Gradient of ``turn`` toward x, into ``out`` (heads side by side, tokens may lie apart)."""
    run = kernel(x)
    if run is not None:
        run(
            "turn_back",
            slope.contiguous(),
            x,
            x.stride(0),
            cos,
            sin,
            weight,
            scale,
            out,
            out.stride(0),
            *x.shape,
        )
        return
    c1, c2, s1, s2 = _tables(cos, sin, weight)
    half = x.shape[-1] // 2
    one, two = slope[..., :half], slope[..., half:]
    torch.mul(one, c1, out=out[..., :half]).addcmul_(two, s1)
    torch.mul(two, c2, out=out[..., half:]).addcmul_(one, s2, value=-1.0)
    if scale is not None:
        unit = x * scale
        mean = (out * unit).mean(-1, keepdim=True)
        out.addcmul_(unit, mean, value=-1.0).mul_(scale)


def _tables(cos: torch.Tensor, sin: torch.Tensor, weight: torch.Tensor | None) -> tuple[torch.Tensor, ...]:
    """Cosines of both halves, sines of both halves, with the norm's weights worked in: [T, 1, d / 2]."""
    half = cos.shape[-1] // 2
    c, s = cos[:, None, :half], sin[:, None, :half]
    if weight is None:
        return c, c, s, s
    return c * weight[:half], c * weight[half:], s * weight[:half], s * weight[half:]


def gate(both: torch.Tensor) -> torch.Tensor:
    """SwiGLU (Shazeer 2020, arXiv:2002.05202): silu of the left half of [T, 2 I] times the right: [T, I]."""
    half = both.shape[-1] // 2
    run = kernel(both)
    if run is not None:
        out = both.new_empty(both.shape[0], half)
        run("gate", both, out, both.shape[0], half)
        return out
    return functional.silu(both[:, :half]).mul_(both[:, half:])


def gate_back_(slope: torch.Tensor, both: torch.Tensor) -> torch.Tensor:
    """Gradient of ``gate`` toward ``both``, which it replaces in place."""
    half = both.shape[-1] // 2
    run = kernel(both)
    if run is not None:
        run("gate_back", slope.contiguous(), both, both.shape[0], half)
        return both
    left, right = both[:, :half], both[:, half:]
    toward_left = torch.ops.aten.silu_backward(slope * right, left)
    torch.mul(slope, functional.silu(left), out=right)
    left.copy_(toward_left)
    return both
