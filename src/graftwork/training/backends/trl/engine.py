"""A base model with one adapter in a ``PeftModel``, as TRL wants it, that still answers as an ``Engine``."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from peft import PeftModel, get_peft_model
from torch import nn

from graftwork.core.errors import PlatformError
from graftwork.core.specs import LoraSpec, Schedule
from graftwork.training.engine import Adapter, Rows, Sums
from graftwork.training.lora import flatten, layers_of, lora_config
from graftwork.training.solo import SoloEngine

NAME = "default"
"""What PEFT and TRL call the adapter that is trained."""


class PeftEngine(SoloEngine):
    """See ``Engine``: evaluates, scores and probes; the training itself is TRL's, on ``peft``.

    The adapter's parameters are views of its flat vector, so TRL's steps move what we save.
    """

    peft: PeftModel | None = None

    def add(self, lora: LoraSpec, seed: int) -> Adapter:
        """See ``Engine.add``; once."""
        if self.peft is not None:
            raise PlatformError("TRL trains one adapter at a time.", code="needs_own_trainer")
        targets = self._inventory.targets(lora)
        made = get_peft_model(self.model, lora_config(lora, targets), adapter_name=NAME)
        assert isinstance(made, PeftModel)
        self.peft = made
        self._layers[NAME] = layers_of(self.model, NAME)
        return flatten(self.model, NAME, targets, seed, lora)

    def remove(self, adapter: Adapter) -> None:
        """The adapter goes with the process."""

    def evaluate(self, adapter: Adapter | None, rows: Rows) -> Sums:
        """See ``Engine.evaluate``."""
        self._quiet()
        return super().evaluate(adapter, rows)

    def scores(self, adapter: Adapter | None, rows: Rows) -> list[float]:
        """See ``Engine.scores``."""
        self._quiet()
        return super().scores(adapter, rows)

    def logprobs(self, adapter: Adapter | None, tokens: Sequence[int], start: int) -> list[float]:
        """See ``Engine.logprobs``."""
        self._quiet()
        return super().logprobs(adapter, tokens, start)

    def on(self, adapter: Adapter) -> None:
        """Let the adapter take part again, for TRL's next step."""
        self._active = "?"
        self._activate(adapter)

    def _quiet(self) -> None:
        """TRL puts the model into training mode at each step."""
        self.model.eval()
        self._active = "?"  # what TRL left active is not known


class TrlMoves:
    """AdamW over the adapter's parameters, stepped by TRL; its moments as flat vectors, for checkpoints.

    See ``Moves``: TRL takes the steps itself, so ``step`` has nothing to do, and the norm is what it logged.
    """

    def __init__(self, adapter: Adapter, schedule: Schedule) -> None:
        self._adapter, self._schedule = adapter, schedule
        self._places: list[tuple[nn.Parameter, str]] = []
        self.adamw: torch.optim.AdamW | None = None
        self.norm = 0.0
        self._restored: dict[str, torch.Tensor] | None = None

    def over(self, model: nn.Module) -> torch.optim.AdamW:
        """The optimizer of ``model``'s adapter; with LoRA+ B's group has its own rate."""
        schedule, ratio = self._schedule, self._schedule.lora_plus or 1.0
        names = {
            f"{name}.weight" if not name.endswith(".weight") else name for name in self._adapter.tensors()
        }
        groups: list[list[nn.Parameter]] = [[], []]
        for name, parameter in model.named_parameters():
            plain = name.replace(f".{NAME}", "")
            if plain in names:
                tensor = plain if plain in self._adapter.tensors() else plain.removesuffix(".weight")
                self._places.append((parameter, tensor))
                groups[".lora_B." in plain].append(parameter)
        self.adamw = torch.optim.AdamW(
            [
                {"params": group, "lr": schedule.learning_rate * rate}
                for group, rate in zip(groups, (1.0, ratio), strict=True)
                if group
            ],
            weight_decay=schedule.weight_decay,
        )
        if self._restored is not None:
            self._pour(self._restored)
        return self.adamw

    def gradient_norm(self) -> float:
        """As TRL logged it."""
        return self.norm

    def step(self, learning_rate: float) -> None:
        """TRL has taken it."""

    def state(self) -> dict[str, torch.Tensor]:
        """See ``Moves.state``."""
        assert self.adamw is not None
        found: dict[str, torch.Tensor] = {}
        for parameter, name in self._places:
            for key, value in self.adamw.state[parameter].items():
                if value.dim() == 0:
                    found[key] = value
                    continue
                whole = found.setdefault(key, torch.zeros_like(self._adapter.weights))
                self._adapter.tensors(whole)[name].copy_(value)
        return found

    def restore(self, state: dict[str, torch.Tensor]) -> None:
        """See ``Moves.restore``; taken up when the optimizer is made."""
        self._restored = state

    def _pour(self, state: dict[str, torch.Tensor]) -> None:
        assert self.adamw is not None
        for parameter, name in self._places:
            self.adamw.state[parameter] = {
                key: (
                    value if value.dim() == 0 else self._adapter.tensors(value.to(parameter.device))[name]
                ).clone()
                for key, value in state.items()
            }
