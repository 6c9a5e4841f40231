"""The element-wise parts of a Llama-shaped layer, forward and backward, as few passes over memory.

All take packed tokens [T, …] and compute in the precision of their input, but norms in fp32 where it is
lower.
"""

from __future__ import annotations

import torch
from torch.nn import functional


def inverse_norm(x: torch.Tensor, eps: float) -> torch.Tensor:
    """1 / root mean square over the last side, kept, fp32."""
    norm = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=torch.float32)
    return norm.square().mul(1.0 / x.shape[-1]).add(eps).rsqrt()


def norm(x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
    """RMSNorm (Zhang & Sennrich 2019, arXiv:1910.07467)."""
    if x.dtype is torch.float32:
        return (x * inverse_norm(x, eps)).mul_(weight)
    return weight * (x.float() * inverse_norm(x, eps)).to(x.dtype)


def norm_back(slope: torch.Tensor, x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
    """Gradient of ``norm`` toward x. Uses ``slope`` up."""
    scale = inverse_norm(x, eps)
    unit, weighted = x.float().mul(scale), slope.float().mul(weight.float())
    mean = (weighted * unit).mean(-1, keepdim=True)
    return torch.addcmul(weighted, unit, mean, value=-1.0).mul_(scale).to(x.dtype)


class Turn:
    """Cosines and sines of a pass, with the norm's weights of one layer's heads worked in.

    Args:
        cos: [T, d], both halves alike, as transformers makes them; so ``sin``.
        weight: [d] of the norm before the rotation, or None.
    """

    def __init__(self, cos: torch.Tensor, sin: torch.Tensor, weight: torch.Tensor | None) -> None:
        half = cos.shape[-1] // 2
        c, s = cos[:, None, :half], sin[:, None, :half]
        if weight is None:
            self.c1 = self.c2 = c
            self.s1 = self.s2 = s
        else:
            self.c1, self.s1 = c * weight[:half], s * weight[:half]
            self.c2, self.s2 = c * weight[half:], s * weight[half:]


def turn(x: torch.Tensor, t: Turn, scale: torch.Tensor | None) -> torch.Tensor:
    """Rotary embedding (Su et al. 2021, arXiv:2104.09864) of ``x [T, heads, d]``, normalised by ``scale``."""
    half = x.shape[-1] // 2
    one, two = x[..., :half], x[..., half:]
    out = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    torch.mul(one, t.c1, out=out[..., :half]).addcmul_(two, t.s2, value=-1.0)
    torch.mul(two, t.c2, out=out[..., half:]).addcmul_(one, t.s1)
    return out if scale is None else out.mul_(scale)


def turn_back_(
    out: torch.Tensor, slope: torch.Tensor, x: torch.Tensor, t: Turn, scale: torch.Tensor | None
) -> None:
    """Gradient of ``turn`` toward x, into ``out``."""
    half = x.shape[-1] // 2
    one, two = slope[..., :half], slope[..., half:]
    torch.mul(one, t.c1, out=out[..., :half]).addcmul_(two, t.s1)
    torch.mul(two, t.c2, out=out[..., half:]).addcmul_(one, t.s2, value=-1.0)
    if scale is not None:
        unit = x * scale
        mean = (out * unit).mean(-1, keepdim=True)
        out.addcmul_(unit, mean, value=-1.0).mul_(scale)


def gate(both: torch.Tensor) -> torch.Tensor:
    """SwiGLU (Shazeer 2020, arXiv:2002.05202): silu of the left half of [T, 2 I] times the right: [T, I]."""
    half = both.shape[-1] // 2
    return functional.silu(both[:, :half]).mul_(both[:, half:])


def gate_back_(slope: torch.Tensor, both: torch.Tensor) -> torch.Tensor:
    """Gradient of ``gate`` toward ``both``, which it replaces in place."""
    half = both.shape[-1] // 2
    left, right = both[:, :half], both[:, half:]
    toward_left = torch.ops.aten.silu_backward(slope * right, left)
    torch.mul(slope, functional.silu(left), out=right)
    left.copy_(toward_left)
    return both
