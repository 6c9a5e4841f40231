"""LoRA on stacked experts, split (ours) against folded (PEFT's): ``python -m bench.experts``.

One mixture layer of 128 experts, 8 active, forward and backward of 512 tokens, in fp32 on this machine: one
adapter on all tokens, and eight adapters with 64 tokens each, where PEFT's layers take turns. Figures are CPU
seconds of this process (other load does not count), medians of alternating runs; also by how much the outputs
and the gradients differ.
"""

from __future__ import annotations

import os
import platform
import statistics
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, inject_adapter_in_model
from torch import Tensor, nn
from transformers import Qwen3MoeConfig
from transformers.models.qwen3_moe.modeling_qwen3_moe import Qwen3MoeExperts

from bench import save
from graftwork.training.packed.experts import ExpertLora, Frozen, LowRank, Stretch, split_experts

RUNS = 9
EXPERTS, ACTIVE, HIDDEN, INNER, TOKENS, RANK = 128, 8, 256, 96, 512, 8
"""Proportions of Qwen3-30B-A3B, an eighth as wide."""
TARGET = Path(__file__).parent / "results" / "experts.json"


class Layer(nn.Module):
    """Where PEFT finds the experts."""

    def __init__(self) -> None:
        super().__init__()
        config = Qwen3MoeConfig(num_experts=EXPERTS, hidden_size=HIDDEN, moe_intermediate_size=INNER)
        config._experts_implementation = "grouped_mm"  # the faster of transformers' own on this shape
        self.experts = Qwen3MoeExperts(config)
        for parameter in self.experts.parameters():
            nn.init.normal_(parameter, std=0.05)


class Folded:
    """PEFT's layers for some adapters, which take turns."""

    def __init__(self, layer: Layer, adapters: int) -> None:
        self.layer = layer
        names = ["experts.gate_up_proj", "experts.down_proj"]
        for number in range(adapters):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                config = LoraConfig(r=RANK, lora_alpha=RANK, target_modules=[], target_parameters=names)
                inject_adapter_in_model(config, layer, adapter_name=f"a{number}")
        self.outer: Any = layer.experts
        self.inner: Any = self.outer.base_layer
        for wrapper in (self.outer, self.inner):
            for pair in (*wrapper.lora_A.values(), *wrapper.lora_B.values()):
                nn.init.normal_(pair.weight, std=0.05)

    def __call__(self, x: Tensor, weights: Tensor, chosen: Tensor, adapters: int) -> Tensor:
        """Forward and backward, each adapter on its equal share of the tokens; the layer's output."""
        outs: list[Tensor] = []
        for number, rows in enumerate(torch.arange(len(x)).chunk(adapters)):
            for wrapper in (self.outer, self.inner):
                wrapper.set_adapter(f"a{number}")
            outs.append(self.layer.experts(x[rows], chosen[rows], weights[rows]))
            outs[-1].sum().backward()
        return torch.cat(outs).detach()

    def split(self, adapters: int) -> list[ExpertLora]:
        """The same adapters for us, on the same numbers."""
        made: list[ExpertLora] = []
        for number in range(adapters):
            pairs = [
                LowRank(a.detach(), b.detach(), torch.zeros_like(a), torch.zeros_like(b))
                for wrapper in (self.inner, self.outer)
                for a, b in [(wrapper.lora_A[f"a{number}"].weight, wrapper.lora_B[f"a{number}"].weight)]
            ]
            made.append(ExpertLora(pairs[0], pairs[1], RANK, 1.0))
        return made

    def gradients(self, adapters: int) -> list[Tensor]:
        """Of every adapter's four tensors."""
        return [
            pair[f"a{number}"].weight.grad
            for number in range(adapters)
            for wrapper in (self.inner, self.outer)
            for pair in (wrapper.lora_A, wrapper.lora_B)
        ]


def measured(act: Callable[[], Tensor]) -> float:
    """CPU seconds of a forward and a backward pass."""
    began = time.process_time()
    act()
    return time.process_time() - began


def difference(ours: Tensor, theirs: Tensor) -> float:
    """Largest, as a share of the largest entry."""
    return float((ours - theirs).abs().max() / theirs.abs().max())


def compare(adapters: int) -> dict[str, float]:
    """Alternate the two on the same tokens; medians, their ratio and the largest difference."""
    torch.manual_seed(0)
    layer = Layer()
    frozen = Frozen.of(layer.experts)
    folded = Folded(layer, adapters)
    loras = folded.split(adapters)
    stretches = [
        Stretch(len(rows), lora)
        for rows, lora in zip(torch.arange(TOKENS).chunk(adapters), loras, strict=True)
    ]
    x = torch.randn(TOKENS, HIDDEN, requires_grad=True)
    weights = torch.rand(TOKENS, ACTIVE)
    chosen = torch.stack([torch.randperm(EXPERTS)[:ACTIVE] for _ in range(TOKENS)])

    def theirs() -> Tensor:
        return folded(x, weights, chosen, adapters)

    def ours() -> Tensor:
        out = split_experts(x, weights, chosen, frozen, stretches)
        out.sum().backward()
        return out.detach()

    off = difference(ours(), theirs())
    mine = [
        grad
        for lora in loras
        for pair in (lora.gate_up, lora.down)
        if pair
        for grad in (pair.a_grad, pair.b_grad)
    ]
    off = max([off, *(difference(a, b) for a, b in zip(mine, folded.gradients(adapters), strict=True))])
    times: dict[str, list[float]] = {"split": [], "folded": []}
    for _ in range(RUNS):
        times["split"].append(measured(ours))
        times["folded"].append(measured(theirs))
    split, fold = (1000 * statistics.median(times[name]) for name in ("split", "folded"))
    return {
        "split_ms": round(split, 1),
        "folded_ms": round(fold, 1),
        "times_faster": round(fold / split, 2),
        "largest_relative_difference": float(f"{off:.1e}"),
    }


def main() -> None:
    """Measure and write."""
    result = {
        "one adapter, 512 tokens": compare(1),
        "eight adapters, 64 tokens each": compare(8),
        "layer": f"{EXPERTS} experts, {ACTIVE} active, width {HIDDEN}, inner {INNER}, rank {RANK}, fp32",
        "runs": RUNS,
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, torch {torch.__version__}",
        "load_before": os.getloadavg()[0],
    }
    save(TARGET, result)


if __name__ == "__main__":
    main()
