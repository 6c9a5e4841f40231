"""Frozen weights in 4 bits: NF4 with double quantization (QLoRA, Dettmers et al. 2023, arXiv:2305.14314).

What is quantized are the linear modules of the decoder and its stacks of experts; embeddings, norms and the
lm_head stay as they are. A quantized weight is never kept unpacked: whoever multiplies with it reads it, into
a tensor of the precision of the computation, and lets it go. It is read once for a forward and once for a
backward product, for the rows of all adapters together; the backward pass reads again and keeps nothing.

bitsandbytes packs and unpacks, on CUDA and on the CPU.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import torch
from torch import nn
from torch.autograd import Function
from torch.nn import functional
from torch.nn.utils import parametrize

from graftwork.core.errors import PlatformError

BLOCK = 64
"""Neighbouring weights that share a scale; the scales themselves are kept in 8 bits, 256 to a scale."""
_LARGEST = 1 << 30
"""Weights that are packed in one go: the kernels count in 32 bits."""


@dataclass(frozen=True, slots=True, eq=False)
class Nf4:
    """A weight in NF4, on the device it was packed on."""

    shape: torch.Size
    pieces: tuple[tuple[torch.Tensor, Any], ...]
    """Packed values (uint8) and their scales, of one stretch of the first side after the other."""
    dtype: torch.dtype
    """Of what is read."""

    @classmethod
    def pack(cls, weight: torch.Tensor, dtype: torch.dtype | None = None) -> Nf4:
        """Quantize ``weight``, of two sides or more; to be read as ``dtype``, or as it is.

        Raises:
            PlatformError: ``quantization_unavailable``, there is no bitsandbytes here.
        """
        dtype = dtype or weight.dtype
        rows = max(1, _LARGEST // max(1, weight[0].numel()))
        pieces: list[tuple[torch.Tensor, Any]] = []
        for part in weight.detach().split(rows):
            packed, state = _bitsandbytes().quantize_4bit(
                part.to(dtype).contiguous(), blocksize=BLOCK, compress_statistics=True, quant_type="nf4"
            )
            pieces.append((packed, state))
        return cls(weight.shape, tuple(pieces), dtype)

    @property
    def device(self) -> torch.device:
        """Where it lies."""
        return self.pieces[0][0].device

    @property
    def bytes(self) -> int:
        """That it takes, its scales included."""
        return sum(
            part.numel() * part.element_size()
            for packed, state in self.pieces
            for part in (packed, state.absmax, state.state2.absmax, state.code, state.state2.code)
        )

    def read(self) -> torch.Tensor:
        """The weight, unpacked: a tensor of its own."""
        if len(self.pieces) == 1:
            packed, state = self.pieces[0]
            return _bitsandbytes().dequantize_4bit(packed, state)
        return read([self])

    def read_into_(self, out: torch.Tensor) -> None:
        """The same into ``out`` of its shape, contiguous."""
        at = 0
        for packed, state in self.pieces:
            part = out[at : at + state.shape[0]]
            at += state.shape[0]
            if part.device.type == "cpu":  # bitsandbytes has no kernel there that writes where it is told
                part.copy_(_bitsandbytes().dequantize_4bit(packed, state))
            else:
                _bitsandbytes().dequantize_4bit(packed, state, out=part)


def read(weights: Sequence[Nf4]) -> torch.Tensor:
    """Weights below one another, unpacked, [sum of first sides, …]."""
    first = weights[0]
    rows = [weight.shape[0] for weight in weights]
    out = torch.empty(sum(rows), *first.shape[1:], dtype=first.dtype, device=first.device)
    for weight, part in zip(weights, out.split(rows), strict=True):
        weight.read_into_(part)
    return out


class _Product(Function):
    """x Wᵀ with a gradient toward x alone, W read anew for it."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, weight: Nf4) -> torch.Tensor:
        ctx.weight = weight
        return functional.linear(x, weight.read())

    @staticmethod
    def backward(ctx: Any, *slopes: torch.Tensor) -> tuple[torch.Tensor, None]:
        return slopes[0] @ ctx.weight.read(), None


class Nf4Linear(nn.Linear):
    """A linear module whose frozen weight is in NF4; it stays on the device it was packed on."""

    def __init__(self, packed: Nf4, bias: torch.Tensor | None) -> None:
        nn.Module.__init__(self)  # no weight is to be made
        self.out_features, self.in_features = packed.shape
        self.packed = packed
        self.bias = None if bias is None else nn.Parameter(bias.detach(), requires_grad=False)

    @property
    def weight(self) -> torch.Tensor:  # pyright: ignore[reportIncompatibleVariableOverride] - it is read, not kept
        """[out, in], unpacked at each look."""
        return self.packed.read()

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """[..., in] to [..., out]."""
        y = _Product.apply(input, self.packed)
        return y if self.bias is None else y + self.bias


class _Unpacked(nn.Module):
    """Gives a stacked parameter at each look at it."""

    def __init__(self, packed: Nf4) -> None:
        super().__init__()
        self.packed = packed

    def forward(self, _: torch.Tensor) -> torch.Tensor:
        return self.packed.read()


def hold(module: nn.Module, name: str, packed: Nf4) -> None:
    """Let the parameter ``name`` of ``module`` be ``packed``: whoever looks at it reads it anew."""
    module.register_parameter(name, nn.Parameter(packed.pieces[0][0], requires_grad=False))
    parametrize.register_parametrization(module, name, _Unpacked(packed), unsafe=True)


def held(module: nn.Module, name: str) -> Nf4 | None:
    """The packed weight behind a parameter; None if it is a plain one."""
    if not parametrize.is_parametrized(module, name):
        return None
    lists = module.parametrizations
    assert isinstance(lists, nn.ModuleDict)
    first = next(iter(lists[name].children()))
    return first.packed if isinstance(first, _Unpacked) else None


def is_packed(model: nn.Module) -> bool:
    """Whether any linear module of it is in 4 bits."""
    return any(isinstance(module, Nf4Linear) for module in model.modules())


def require() -> None:
    """See that weights can be packed here.

    Raises:
        PlatformError: ``quantization_unavailable``.
    """
    _bitsandbytes()


def _bitsandbytes() -> ModuleType:
    """Its functions, imported when they are needed: a trainer without it trains unquantized."""
    try:
        from bitsandbytes import functional as found
    except ImportError as error:
        raise PlatformError(
            "A base model in 4 bits needs bitsandbytes, which is not installed on this machine.",
            fix="pip install 'graftwork[train]', or train with quantization none.",
            code="quantization_unavailable",
        ) from error
    return found
