"""The solo engine: a transformers model with PEFT LoRA layers, one adapter at a time.

For what cannot share a step (DoRA, families the packed engine cannot take), and the oracle of its tests.

CUDA and bf16 where there is a GPU, else the CPU and fp32; adapters, losses and optimizers are fp32 always.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Self, TypeVar

import torch
from peft.tuners.lora import LoraLayer
from torch import nn
from torch.nn.utils.rnn import pad_sequence
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer

from graftwork.core.errors import TrainingError
from graftwork.core.specs import LoraSpec, Quantization
from graftwork.training.engine import ANSWERS, Adapter, Objective, Rows, Sums, Work, nothing_to_learn
from graftwork.training.loading import load_model, straight_head
from graftwork.training.lora import eject, flatten, inject
from graftwork.training.loss import cross_entropy, embedding_noise, labelled, padded, token_scores
from graftwork.training.machine import describe, pick_device
from graftwork.training.nf4 import is_packed
from graftwork.training.seeds import row_seed
from graftwork.training.targets import Inventory

T = TypeVar("T")
_UNKNOWN = ""
"""In place of the active adapter's name: whatever PEFT made of it."""


class SoloEngine:
    """See ``Engine``. Adapters take turns: their layers live side by side, one set is active.

    Args:
        model: a causal language model in eval mode; frozen here.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        self.model = model
        self.device = model.device
        self.decoder: nn.Module = model.get_decoder()
        self.head = straight_head(model, self.decoder)
        self.vocabulary = int(self.head.weight.shape[0])
        model.requires_grad_(False)
        self._inventory = Inventory.of(model, self.decoder, self.head)
        self._layers: dict[str, list[LoraLayer]] = {}
        self._active: str | None = _UNKNOWN
        self._names = (f"graft{number}" for number in itertools.count())
        self.recompute = False
        """Whether activations are recomputed already: out of memory is an error then."""

    @classmethod
    def load(
        cls,
        folder: Path,
        device: torch.device | None = None,
        dtype: torch.dtype | None = None,
        quantization: Quantization = "none",
    ) -> Self:
        """The base model in ``folder``; unless told otherwise bf16 on a GPU, fp32 on the CPU.

        Raises:
            TrainingError: ``base_unusable``, the folder holds no model that can be loaded.
        """
        return cls(load_model(folder, device or pick_device(), dtype, quantization))

    def add(self, lora: LoraSpec, seed: int) -> Adapter:
        """See ``Engine.add``.

        Raises:
            TrainingError: ``unsupported_method``, experts in 4 bits: PEFT would leave them out.
        """
        targets = self._inventory.targets(lora)
        if targets.parameters and is_packed(self.model):
            raise TrainingError(
                "PEFT cannot adapt experts that are in 4 bits, and this model cannot run packed.",
                fix="Train it with quantization none, or leave the experts and MLPs out of lora.targets.",
                code="unsupported_method",
            )
        name = next(self._names)
        layers = inject(self.model, name, lora, targets)
        adapter = flatten(self.model, name, targets, seed, lora)
        self._layers[name] = layers
        self._active = _UNKNOWN  # PEFT makes a new adapter active
        set_dropout(layers, name, on=False)
        return adapter

    def remove(self, adapter: Adapter) -> None:
        """See ``Engine.remove``."""
        eject(self.model, adapter.name, self._layers.pop(adapter.name))
        self._active = _UNKNOWN

    def save_memory(self) -> None:
        """See ``Engine.save_memory``."""
        if not self.recompute:
            self.recompute = True
            recompute_activations(self.model)

    def forward_backward(self, work: Sequence[Work]) -> list[Sums | TrainingError]:
        """See ``Engine.forward_backward``. Out of memory once, activations are recomputed from then on."""
        outcomes: list[Sums | TrainingError] = []
        for item in work:
            try:
                outcomes.append(self._guarded(lambda item=item: self._step(item)))
            except TrainingError as error:
                outcomes.append(error)
        return outcomes

    def evaluate(self, adapter: Adapter | None, rows: Rows) -> Sums:
        """See ``Engine.evaluate``."""
        self._activate(adapter)
        with torch.no_grad():
            return self._guarded(lambda: _read(*self._loss(rows), len(rows)))

    def scores(self, adapter: Adapter | None, rows: Rows) -> list[float]:
        """See ``Engine.scores``."""
        self._activate(adapter)
        with torch.no_grad():
            return self._guarded(lambda: _scores(self, rows)[0].tolist())

    def logprobs(self, adapter: Adapter | None, tokens: Sequence[int], start: int) -> list[float]:
        """See ``Engine.logprobs``."""
        self._activate(adapter)
        ids = torch.tensor([list(tokens)], device=self.device)
        with torch.no_grad():
            hidden = self.decoder(input_ids=ids, use_cache=False).last_hidden_state[0, start - 1 : -1]
            table = torch.log_softmax(self.head(hidden).float(), dim=-1)
            return table.gather(1, ids[0, start:, None])[:, 0].tolist()

    def describe(self) -> dict[str, str | int | float]:
        """See ``Engine.describe``."""
        form = {"quantization": "nf4"} if is_packed(self.model) else {}
        return {**describe(self.device), "precision": str(self.model.dtype).removeprefix("torch."), **form}

    def _step(self, work: Work) -> Sums:
        self._activate(work.adapter)
        work.adapter.grad.zero_()
        total = work.labelled
        if not total:
            raise nothing_to_learn()
        torch.manual_seed(work.seed)  # only dropout draws from it
        set_dropout(self._layers[work.adapter.name], work.adapter.name, on=True)
        try:
            sums = Sums()
            first = 0
            for rows in work.batches:
                with _noise(self.model.get_input_embeddings(), work, rows, first):
                    if work.objective is ANSWERS:
                        loss, correct, tokens = self._loss(rows)
                        if tokens:
                            (loss / total).backward()
                        sums += _read(loss, correct, tokens, len(rows))
                    else:
                        sums += self._example_step(work.objective, rows, first)
                first += len(rows)
            return sums
        finally:
            set_dropout(self._layers[work.adapter.name], work.adapter.name, on=False)

    def _example_step(self, objective: Objective, rows: Rows, first: int) -> Sums:
        """Scores with their graph kept, the objective's slopes, and those back through the graph."""
        scores, correct = _scores(self, rows)
        slopes = objective.slopes(scores.detach(), rows, first)
        scores.backward(slopes.per_row)
        names, numbers = list(slopes.metrics), [slopes.loss, correct, *slopes.metrics.values()]
        loss, hits, *extra = torch.stack([number.detach().double() for number in numbers]).tolist()
        return Sums(
            loss,
            sum(row.labelled for row in rows),
            int(hits),
            len(rows) // objective.rows_per_example,
            dict(zip(names, extra, strict=True)),
            by_example=True,
        )

    def _loss(self, rows: Rows) -> tuple[torch.Tensor, torch.Tensor, int]:
        where, targets = labelled(rows, self.device)
        ids = padded(rows, self.device)
        hidden = self.decoder(input_ids=ids, use_cache=False).last_hidden_state
        chosen = hidden.flatten(0, 1).index_select(0, where)
        loss, correct = cross_entropy(chosen, self.head, targets, self.vocabulary)
        return loss, correct, len(targets)

    def _activate(self, adapter: Adapter | None) -> None:
        """Let this adapter (None: none) take part in the forward pass."""
        wanted = adapter.name if adapter else None
        if wanted == self._active:
            return
        for layers in self._layers.values():
            for layer in layers:
                layer.enable_adapters(False)
        if wanted is not None:
            for layer in self._layers[wanted]:
                layer.enable_adapters(True)
                layer.set_adapter(wanted)
        self._active = wanted

    def _guarded(self, act: Callable[[], T]) -> T:
        try:
            return act()
        except torch.OutOfMemoryError as error:
            torch.cuda.empty_cache()
            if self.recompute:
                raise TrainingError(
                    "The device has too little memory for one micro-batch.",
                    fix="Use more accumulation, a smaller max_length or rank, or a larger GPU.",
                    code="out_of_memory",
                ) from error
        self.save_memory()
        return self._guarded(act)


def _scores(engine: SoloEngine, rows: Rows) -> tuple[torch.Tensor, torch.Tensor]:
    """Each row's score, fp32 [rows], and the number of correct first choices."""
    where, targets = labelled(rows, engine.device)
    ids = padded(rows, engine.device)
    hidden = engine.decoder(input_ids=ids, use_cache=False).last_hidden_state
    chosen = hidden.flatten(0, 1).index_select(0, where)
    values, hits = token_scores(chosen, engine.head, targets, engine.vocabulary)
    row = torch.tensor([n for n, row in enumerate(rows) for _ in range(row.labelled)], device=engine.device)
    return values.new_zeros(len(rows)).index_add(0, row, values), hits.sum()


@contextmanager
def _noise(table: nn.Module, work: Work, rows: Rows, first: int) -> Iterator[None]:
    """NEFTune's noise on the embeddings of a micro-batch whose first row is the work's ``first``."""
    alpha = work.noise
    if alpha is None:
        yield
        return

    def disturb(_: nn.Module, __: object, hidden: torch.Tensor) -> torch.Tensor:
        noise = [
            embedding_noise(len(row.tokens), hidden.shape[-1], alpha, row_seed(work.seed, first + number))
            for number, row in enumerate(rows)
        ]
        return hidden + pad_sequence(noise, batch_first=True).to(hidden)

    hook = table.register_forward_hook(disturb)
    try:
        yield
    finally:
        hook.remove()


def set_dropout(layers: Sequence[LoraLayer], name: str, on: bool) -> None:
    """The base stays in eval mode; only the adapter's own dropout knows training from evaluation."""
    for layer in layers:
        layer.lora_dropout[name].train(on)


def recompute_activations(model: PreTrainedModel) -> None:
    """Hold one layer's activations at a time and compute them again in the backward pass: slower, smaller."""
    for module in model.modules():
        if isinstance(module, GradientCheckpointingLayer):
            module.forward = partial(checkpoint, module.forward, use_reentrant=False)


def _read(loss: torch.Tensor, correct: torch.Tensor, tokens: int, rows: int) -> Sums:
    """One transfer from the device for both numbers."""
    values = torch.stack((loss.detach().double(), correct.double())).tolist()
    return Sums(values[0], tokens, int(values[1]), rows)
