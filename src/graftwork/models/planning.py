"""Does it fit, how long does it take, what does it cost: before anything is bought."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

from graftwork.core.money import dollars, tokens_cost
from graftwork.core.specs import LoraSpec, Schedule
from graftwork.models.entry import CatalogueEntry, Shape
from graftwork.models.schedule import DataSize

Device = Literal["cpu", "gpu"]

_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
_ADAM_COPIES = 4
"""fp32 values kept per adapter weight: the weight, its gradient, and Adam's two moments."""
_RUNTIME = {"cpu": 350 << 20, "gpu": 1200 << 20}
"""The process itself: Python and PyTorch; on a GPU also the CUDA context and its libraries."""
_CPU_FLOPS_PER_CORE = 25e9
"""Assumed useful fp32 operations a second and core in a training step: about a third of what AVX-512 cores
at 2.5 GHz reach in large matrix products, as measured for an ordinary LoRA loop on hidden size 512."""
_CPU_SECONDS_PER_LAYER = 0.008
"""Assumed fixed cost of one layer in one micro-step on a CPU (launching small operations), measured
likewise."""
_LOADING_SECONDS = {"cpu": 6.0, "gpu": 30.0}


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """An estimate of a run.

    Attributes:
        fits: whether ``memory_bytes`` is within the memory given; True when none was given.
        memory_bytes: peak, estimated; ``memory`` holds its parts.
        trained_tokens: tokens times epochs, as billed.
        seconds: expected duration from the first row read to the last file written.
        price: micro-dollars for the trained tokens.
        why: the reasoning, one sentence each.
    """

    fits: bool
    memory_bytes: int
    memory: dict[str, int]
    trained_tokens: int
    steps: int
    seconds: float
    price: int
    why: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {**asdict(self), "why": list(self.why)}


def plan(
    entry: CatalogueEntry,
    schedule: Schedule,
    lora: LoraSpec,
    size: DataSize,
    *,
    memory: int | None = None,
    device: Device = "cpu",
    cores: int = 2,
    rate: float | None = None,
) -> Plan:
    """Estimate a run.

    Args:
        entry: the base model.
        schedule: from ``choose``.
        lora: the adapter's shape.
        size: the training rows (after the hold-out), cut at ``schedule.max_length``, and the validation rows.
        memory: bytes the machine has for it; None leaves ``fits`` True.
        device: where it runs; the weights are held in fp32 on a CPU, in the model's own type on a GPU.
        cores: CPU cores, for the estimate of ``seconds`` on a CPU.
        rate: measured trained tokens a second of this model on such a machine; the estimate's best source.
    """
    parts = _memory(entry.shape, schedule, lora, size, device)
    total = sum(parts.values())
    tokens = size.tokens * schedule.n_epochs
    seconds, how = _seconds(entry.shape, schedule, lora, size, device, cores, rate)
    price = tokens_cost(tokens, entry.prices.train)
    fits = memory is None or total <= memory
    why = [
        f"Memory: {', '.join(f'{name} {_size(value)}' for name, value in parts.items())}; "
        f"together {_size(total)}" + (f" of {_size(memory)}." if memory is not None else "."),
        f"Tokens: {size.tokens} in {size.rows} rows, {schedule.n_epochs} times, "
        f"in {schedule.total_steps} steps.",
        f"Time: {how}.",
        f"Price: {tokens} trained tokens at {dollars(entry.prices.train)} a million: {dollars(price)}.",
    ]
    if not fits:
        why.append(
            "It does not fit: raise accumulation, lower max_length or the rank, or take a larger machine."
        )
    return Plan(
        fits=fits,
        memory_bytes=total,
        memory=parts,
        trained_tokens=tokens,
        steps=schedule.total_steps,
        seconds=round(seconds, 1),
        price=price,
        why=tuple(why),
    )


def adapter_parameters(shape: Shape, lora: LoraSpec) -> int:
    """Weights of a LoRA: ``rank * (inputs + outputs)`` for each target module, experts each their own."""
    linears = shape.linears
    names = linears if lora.targets == "all-linear" else lora.targets
    chosen = [linears[name] for name in names if name in linears]
    return shape.layers * lora.rank * sum((inputs + outputs) * copies for inputs, outputs, copies in chosen)


def _memory(
    shape: Shape, schedule: Schedule, lora: LoraSpec, size: DataSize, device: Device
) -> dict[str, int]:
    width = 4 if device == "cpu" else _BYTES.get(shape.dtype, 2)
    rows = -(-schedule.batch_size // schedule.accumulation)
    tokens = rows * schedule.max_length
    # kept for the backward pass of a layer, in values a token: the residual stream and norms, queries,
    # keys, values and the attention's output, gate, up and their product, and LoRA's narrow products
    attention = (2 * shape.heads + 2 * shape.kv_heads) * shape.head_dim
    active = max(shape.active_experts, 1)
    kept = 6 * shape.hidden + 2 * attention + 4 * shape.intermediate * active + 7 * lora.rank
    labelled = tokens * size.labelled / max(size.tokens, 1)
    return {
        "weights": shape.parameters * width,
        "adapter": adapter_parameters(shape, lora) * 4 * _ADAM_COPIES,
        "activations": tokens * shape.layers * kept * width,
        # logits and their gradient in fp32, for labelled positions only
        "logits": round(labelled) * shape.vocab * 4 * 2,
        "runtime": _RUNTIME[device],
    }


def _seconds(
    shape: Shape,
    schedule: Schedule,
    lora: LoraSpec,
    size: DataSize,
    device: Device,
    cores: int,
    rate: float | None,
) -> tuple[float, str]:
    """Expected seconds, and how they were reckoned."""
    trained = size.tokens * schedule.n_epochs
    looks = schedule.total_steps // schedule.eval_every
    if rate is not None:
        seconds = (trained + looks * size.valid_tokens / 3) / rate + _LOADING_SECONDS[device]
        return seconds, f"{trained} tokens at a measured {rate:,.0f} tokens a second"
    if device == "gpu":
        seconds = trained * 6 * shape.active_parameters / 150e12 + 0.05 * schedule.total_steps
        why = "no rate was measured: assumed 150 TFLOP/s and 50 ms a step on the GPU"
        return seconds + _LOADING_SECONDS[device], why
    # forward 2, backward through frozen weights 2; the adapter also its own gradient; the head on labels only
    each = 4 * shape.active_parameters + 6 * adapter_parameters(shape, lora)
    head = 4 * shape.vocab * shape.hidden * size.labelled / max(size.tokens, 1)
    work = trained * (each + head) + looks * size.valid_tokens * (each + head) / 2
    launches = schedule.total_steps * schedule.accumulation * shape.layers * _CPU_SECONDS_PER_LAYER
    seconds = work / (_CPU_FLOPS_PER_CORE * cores) + launches + _LOADING_SECONDS[device]
    why = (
        f"no rate was measured: assumed {_CPU_FLOPS_PER_CORE * cores / 1e9:.0f} GFLOP/s on {cores} cores "
        f"and {_CPU_SECONDS_PER_LAYER * 1000:.0f} ms a layer and step"
    )
    return seconds, why


def _size(count: int) -> str:
    return f"{count / (1 << 30):.1f} GiB" if count >= 1 << 30 else f"{count / (1 << 20):.0f} MiB"
