"""How long a step takes: a model from counted operations, bytes and launches, on a CPU or a GPU.

A step costs whatever is longest: the matrix products at the rate a machine reaches, the bytes of the weights
through its memory, or the launches of its small operations. From it follow the time of a run, and whether it
pays to train several runs together: together they read the weights and launch the operations once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from graftwork.core.specs import Method, Quantization, TrainerName
from graftwork.models.entry import Shape
from graftwork.models.memory import BYTES, NF4_BYTES, Device, Load, adapter_parameters

EFFICIENCY = 0.6
"""Share of its peak that a GPU reaches in the matrix products of training."""
_BANDWIDTH_EFFICIENCY = 0.8
_LAUNCH = 6e-6
"""Seconds to launch one operation on a GPU."""
_LAUNCHES = {"dense": 60, "mixture": 110}
"""Operations of one layer forward and backward, elementwise ones fused, with the adapters' grouped."""
_LAUNCHES_PER_RUN = 12
"""Operations a step adds for each run on it: its loss, its clipping, its optimizer."""

_CPU_FLOPS_PER_CORE = 60e9
"""fp32 operations a second that a core of a present server reaches in wide products: half of its peak."""
_CPU_NARROW = 128
"""Width at which half of that rate is reached."""
_CPU_LAUNCH = 0.004
"""Seconds of one layer's small operations in one pass on a CPU, whatever the number of tokens."""
_CPU_RUN = 0.002
"""Seconds a step costs for each run on it."""
LOADING = {"cpu": 6.0, "gpu": 30.0}
"""Seconds to start and to load the base, besides its bytes over the disk."""


@dataclass(frozen=True, slots=True)
class Gpu:
    """Peak dense bf16 operations and bytes a second, as its maker states them."""

    flops: float
    bandwidth: float


GPUS: dict[str, Gpu] = {
    "B200": Gpu(2250e12, 8.0e12),
    "H200": Gpu(989e12, 4.8e12),
    "H100": Gpu(989e12, 3.35e12),
    "A100": Gpu(312e12, 2.0e12),
    "L40S": Gpu(362e12, 0.864e12),
    "4090": Gpu(165e12, 1.0e12),
    "A10": Gpu(125e12, 0.6e12),
    "L4": Gpu(121e12, 0.3e12),
    "T4": Gpu(65e12, 0.32e12),
}
"""By a part of the name a provider gives them; the first that fits counts."""
_UNKNOWN_GPU = Gpu(250e12, 1.0e12)


@dataclass(frozen=True, slots=True, kw_only=True)
class Hardware:
    """Where a step runs."""

    device: Device
    cores: int = 2
    gpu: str | None = None

    @property
    def card(self) -> Gpu:
        """The GPU's peaks; a modest one's where the name is not known."""
        named = (self.gpu or "").upper()
        return next((gpu for name, gpu in GPUS.items() if name in named), _UNKNOWN_GPU)

    def said(self) -> str:
        """What was assumed, for people."""
        if self.device == "cpu":
            return f"up to {_CPU_FLOPS_PER_CORE * self.cores / 1e9:.0f} GFLOP/s on {self.cores} cores"
        peak = self.card.flops * EFFICIENCY / 1e12
        return f"{peak:.0f} TFLOP/s and {self.card.bandwidth / 1e12:g} TB/s on {self.gpu or 'the GPU'}"


def step_seconds(
    shape: Shape,
    loads: Sequence[Load],
    where: Hardware,
    *,
    quantization: Quantization = "none",
    recompute: bool = False,
    mean_length: float = 0.0,
) -> float:
    """Seconds of one micro-step with all of ``loads`` in it: forward, backward, and the optimizers."""
    tokens = sum(load.tokens for load in loads)
    work = sum(operations(shape, load, recompute=recompute, mean_length=mean_length) for load in loads)
    passes = 3 if recompute else 2
    if where.device == "cpu":
        rate = _CPU_FLOPS_PER_CORE * where.cores * shape.hidden / (shape.hidden + _CPU_NARROW)
        return work / rate + shape.layers * _CPU_LAUNCH * passes / 2 + _CPU_RUN * len(loads)
    card = where.card
    adapters = sum(adapter_parameters(shape, load.lora) for load in loads)
    moved = passes * weights_read(shape, tokens, quantization) + 28 * adapters
    kind = "mixture" if shape.experts else "dense"
    launches = shape.layers * _LAUNCHES[kind] * passes / 2 + _LAUNCHES_PER_RUN * len(loads)
    return max(
        work / (card.flops * EFFICIENCY),
        moved / (card.bandwidth * _BANDWIDTH_EFFICIENCY),
        launches * _LAUNCH,
    )


def operations(shape: Shape, load: Load, *, recompute: bool = False, mean_length: float = 0.0) -> float:
    """Floating-point operations of one load's forward and backward pass.

    Two a weight and token forward, two backward (toward the activations alone: the base is frozen), six for
    the adapter; twice the mean length for the attention; the head at labelled positions only. A mixture's
    token meets its active experts only. Recomputing repeats the forward pass.
    """
    active, adapter = shape.active_parameters, _active_adapter(shape, load)
    attention = 2 * mean_length * shape.heads * shape.head_dim * shape.layers
    forward = 2 * active + 2 * adapter + attention
    backward = 2 * active + 4 * adapter + 2 * attention
    each = forward * (2 if recompute else 1) + backward + _extra_forwards(load.method, load.trainer) * forward
    return load.tokens * each + load.labelled * 6 * shape.vocab * shape.hidden


def weights_read(shape: Shape, tokens: int, quantization: Quantization = "none") -> float:
    """Bytes of base weights one pass over ``tokens`` tokens touches on a GPU; of the experts only those met.

    A 4-bit layer is read, unpacked and read again: its price is the same for all runs of a step.
    """
    width = BYTES.get(shape.dtype, 2)
    dense, experts = split_weights(shape)
    share = 1.0
    if shape.experts:
        share = 1 - (1 - shape.active_experts / shape.experts) ** max(tokens, 1)
    each = width if quantization == "none" else NF4_BYTES + 2 * width
    return (dense + experts * share) * each + shape.vocab * shape.hidden * width


def split_weights(shape: Shape) -> tuple[float, float]:
    """The layers' weights that every token meets, and those of all routed experts."""
    if not shape.experts or shape.active_experts >= shape.experts:
        return float(shape.block_parameters), 0.0
    idle = shape.block_parameters - shape.active_parameters
    experts = idle / (1 - shape.active_experts / shape.experts)
    return shape.block_parameters - experts, experts


@dataclass(frozen=True, slots=True)
class Together:
    """What training several runs in one step is worth.

    Attributes:
        gain: seconds one after the other over seconds together; above 1 it pays.
        seconds: of the step with all of them in it.
        why: one sentence.
    """

    gain: float
    seconds: float
    why: str


def together(
    shape: Shape,
    loads: Sequence[Load],
    where: Hardware,
    *,
    quantization: Quantization = "none",
    recompute: bool = False,
) -> Together:
    """Whether several runs' steps cost less in one than one after the other."""
    options = {"quantization": quantization, "recompute": recompute}
    joint = step_seconds(shape, loads, where, **options)  # type: ignore[arg-type]
    alone = sum(step_seconds(shape, [load], where, **options) for load in loads)  # type: ignore[arg-type]
    gain = alone / joint if joint else 1.0
    tokens = sum(load.tokens for load in loads)
    verdict = "pays" if gain >= 1.1 else "hardly pays"
    why = (
        f"{len(loads)} runs with {tokens} tokens a step: {joint * 1000:.0f} ms together, "
        f"{alone * 1000:.0f} ms one after the other ({gain:.1f} times): it {verdict}"
    )
    return Together(round(gain, 3), joint, why)


def _active_adapter(shape: Shape, load: Load) -> float:
    """Adapter weights that one token meets."""
    whole = adapter_parameters(shape, load.lora)
    if not shape.experts:
        return whole
    dense, experts = split_weights(shape)
    met = dense + experts * shape.active_experts / shape.experts
    return whole * met / (dense + experts)


def _extra_forwards(method: Method, trainer: TrainerName) -> float:
    """Forward passes besides the step's own, in forward passes a token and epoch.

    The native DPO asks the reference once for each row of a run, which is added by ``planning``; TRL asks at
    each step. KTO asks the reference, and both models for the divergence.
    """
    if method == "dpo" and trainer != "native":
        return 1.0
    return 3.0 if method == "kto" else 0.0
