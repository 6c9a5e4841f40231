"""AdamW on an adapter's flat vector. Loshchilov & Hutter 2017 (arXiv:1711.05101); PyTorch's fused kernel."""

from __future__ import annotations

import torch

from graftwork.training.engine import Adapter


class Optimizer:
    """AdamW with global-norm clipping for one adapter; touches that adapter's numbers only.

    Args:
        adapter: its ``weights`` are moved, its ``grad`` is read (and clipped in place).
        weight_decay: decoupled, times the learning rate.
        max_grad_norm: gradients of a larger L2 norm are scaled down to it.
    """

    def __init__(self, adapter: Adapter, weight_decay: float, max_grad_norm: float) -> None:
        self._weights = torch.nn.Parameter(adapter.weights)
        self._weights.grad = adapter.grad
        self._adamw = torch.optim.AdamW([self._weights], lr=0.0, weight_decay=weight_decay, fused=True)
        self._max_grad_norm = max_grad_norm

    def gradient_norm(self) -> float:
        """L2 norm of the gradient; clips the gradient."""
        gradient = self._gradient()
        # A million fp32 squares summed in fp32 lose the fifth digit.
        norm = torch.linalg.vector_norm(gradient, dtype=torch.float64)
        gradient.mul_((self._max_grad_norm / (norm + 1e-6)).clamp(max=1.0))
        return float(norm)

    def step(self, learning_rate: float) -> None:
        """Move the weights."""
        self._adamw.param_groups[0]["lr"] = learning_rate
        self._adamw.step()

    def state(self) -> dict[str, torch.Tensor]:
        """Moments fp32 [n] each, and the number of steps taken: all that a later ``restore`` needs."""
        return dict(self._adamw.state[self._weights])

    def restore(self, state: dict[str, torch.Tensor]) -> None:
        """Continue from what ``state`` returned."""
        device = self._weights.device
        self._adamw.state[self._weights] = {name: value.to(device).clone() for name, value in state.items()}

    def _gradient(self) -> torch.Tensor:
        gradient = self._weights.grad
        assert gradient is not None
        return gradient
