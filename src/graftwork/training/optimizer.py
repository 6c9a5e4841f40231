"""AdamW on an adapter's flat vector. Loshchilov & Hutter 2017 (arXiv:1711.05101); PyTorch's fused kernel.

With LoRA+ (Hayou et al. 2024, arXiv:2402.12354) each number has a rate of its own: B's are a multiple of A's.
"""

from __future__ import annotations

import math
from typing import Protocol

import torch

from graftwork.training.engine import Adapter
from graftwork.training.packed.kernels import kernels

_MOMENTS = frozenset({"exp_avg", "exp_avg_sq"})


class Moves(Protocol):
    """What a session asks of an optimizer."""

    def gradient_norm(self) -> float:
        """L2 norm of the gradient; clips it."""
        ...

    def step(self, learning_rate: float) -> None:
        """Move the weights."""
        ...

    def state(self) -> dict[str, torch.Tensor]:
        """Moments fp32 [n] each, and the number of steps taken: all that a later ``restore`` needs."""
        ...

    def restore(self, state: dict[str, torch.Tensor]) -> None:
        """Continue from what ``state`` returned."""
        ...


class Optimizer:
    """AdamW with global-norm clipping for one adapter; touches that adapter's numbers only.

    Args:
        adapter: its ``weights`` are moved, its ``grad`` is read (and clipped in place).
        weight_decay: decoupled, times the learning rate.
        max_grad_norm: gradients of a larger L2 norm are scaled down to it.
        lora_plus: the learning rate of B over that of A; None: the same.
    """

    def __init__(
        self, adapter: Adapter, weight_decay: float, max_grad_norm: float, lora_plus: float | None = None
    ) -> None:
        self._weights = torch.nn.Parameter(adapter.weights)
        self._weights.grad = adapter.grad
        self._adamw = torch.optim.AdamW([self._weights], lr=0.0, weight_decay=weight_decay, fused=True)
        self._max_grad_norm = max_grad_norm
        self._ratios = None if lora_plus is None else _ratios(adapter, lora_plus)

    def gradient_norm(self) -> float:
        """L2 norm of the gradient; clips the gradient."""
        gradient = self._gradient()
        norm = _norm(gradient)
        if self._max_grad_norm < norm + 1e-6:
            gradient.mul_(self._max_grad_norm / (norm + 1e-6))
        return norm

    def step(self, learning_rate: float) -> None:
        """Move the weights."""
        self._fetch()
        if self._ratios is not None:
            self._step_each(learning_rate * self._ratios)
            return
        if not self._adamw.state[self._weights]:
            self._adamw.param_groups[0]["lr"] = learning_rate
            self._adamw.step()  # makes the moments
            return
        self._step_all(learning_rate)

    def state(self) -> dict[str, torch.Tensor]:
        """Moments fp32 [n] each, and the number of steps taken: all that a later ``restore`` needs."""
        return dict(self._adamw.state[self._weights])

    def restore(self, state: dict[str, torch.Tensor]) -> None:
        """Continue from what ``state`` returned.

        Raises:
            ValueError: moments of another length; the fused kernel would write past their end.
        """
        device = self._weights.device
        if any(value.dim() and value.shape != self._weights.shape for value in state.values()):
            raise ValueError("The optimizer's state is of another adapter.")
        self._adamw.state[self._weights] = {name: value.to(device).clone() for name, value in state.items()}

    def park(self) -> None:
        """Hold the moments in main memory until the next step: between steps nobody reads them.

        They are half of what a run occupies on a GPU besides activations. Bits do not change on the way.
        """
        held = self._adamw.state[self._weights]
        for name in _MOMENTS & held.keys():
            held[name] = held[name].to("cpu")

    def _fetch(self) -> None:
        held, device = self._adamw.state[self._weights], self._weights.device
        for name in _MOMENTS & held.keys():
            held[name] = held[name].to(device)

    @torch.no_grad()
    def _step_all(self, rate: float) -> None:
        """The kernel behind ``AdamW.step`` without its bookkeeping, which is slower than a small adapter."""
        group, state = self._adamw.param_groups[0], self._adamw.state[self._weights]
        state["step"] += 1
        torch.ops.aten._fused_adamw_(
            [self._weights],
            [self._gradient()],
            [state["exp_avg"]],
            [state["exp_avg_sq"]],
            [],
            [state["step"]],
            lr=rate,
            beta1=group["betas"][0],
            beta2=group["betas"][1],
            weight_decay=group["weight_decay"],
            eps=group["eps"],
            amsgrad=False,
            maximize=False,
        )

    @torch.no_grad()
    def _step_each(self, rates: torch.Tensor) -> None:
        """AdamW with a rate fp32 [n] of its own for each weight; the moments are those of ``step``."""
        group, state, gradient = (
            self._adamw.param_groups[0],
            self._adamw.state[self._weights],
            self._gradient(),
        )
        if not state:
            state["step"] = torch.zeros((), dtype=torch.float32, device=gradient.device)
            state["exp_avg"] = torch.zeros_like(gradient)
            state["exp_avg_sq"] = torch.zeros_like(gradient)
        first, second = group["betas"]
        state["step"] += 1
        done = float(state["step"])
        state["exp_avg"].lerp_(gradient, 1 - first)
        state["exp_avg_sq"].mul_(second).addcmul_(gradient, gradient, value=1 - second)
        self._weights.mul_(1 - rates * group["weight_decay"])
        root = state["exp_avg_sq"].sqrt().div_((1 - second**done) ** 0.5).add_(group["eps"])
        self._weights.addcdiv_(rates * state["exp_avg"], root, value=-1 / (1 - first**done))

    def _gradient(self) -> torch.Tensor:
        gradient = self._weights.grad
        assert gradient is not None
        return gradient


def _norm(flat: torch.Tensor) -> float:
    """L2 norm. A million fp32 squares summed in fp32 would lose the fifth digit."""
    run = kernels(flat)
    if run is None or not flat.is_contiguous():
        return float(torch.linalg.vector_norm(flat, dtype=torch.float64))
    total = torch.empty((), dtype=torch.float64)
    run("squares", flat, total, flat.numel())
    return math.sqrt(float(total))


def _ratios(adapter: Adapter, lora_plus: float) -> torch.Tensor:
    """fp32 [n]: the ratio where a weight is B's, else 1."""
    ratios = torch.ones_like(adapter.weights)
    for name, part in adapter.tensors(ratios).items():
        if ".lora_B." in name:
            part.fill_(lora_plus)
    return ratios
