"""optimum-neuron (https://github.com/huggingface/optimum-neuron): LoRA on AWS Trainium.

Its graphs are compiled for one shape, so every row is padded to the longest; its parallel linear layers take
the cores of a node together (tensor parallelism), so that every core sees every row.
"""

from __future__ import annotations

from graftwork.core.specs import RunSpec
from graftwork.training.backends.command.recipe import RUNNERS, Place, Recipe, arguments_of

ROUND = 128
"""Lengths are rounded up to this: the compiler's tiles."""


def config(spec: RunSpec, place: Place) -> dict[str, dict[str, object]]:
    """Arguments of ``NeuronTrainingArguments`` and ``LoraConfig``, and the length of rows."""
    lora = spec.lora
    arguments = arguments_of(spec, place) | {
        "per_device_train_batch_size": spec.schedule.batch_size // spec.schedule.accumulation,
        "bf16": True,
        "do_train": True,
        "tensor_parallel_size": place.devices,
        "async_save": False,
        "report_to": "none",
    }
    return {
        "arguments": arguments,
        "model": {"name": str(place.base), "length": -(-place.longest // ROUND) * ROUND},
        "lora": {
            "r": lora.rank,
            "lora_alpha": int(lora.alpha),
            "lora_dropout": lora.dropout,
            "target_modules": list(place.targets),
            "bias": "none",
            "task_type": "CAUSAL_LM",
        },
    }


def _launcher(spec: RunSpec, place: Place, python: str) -> list[str]:
    return [python, "-m", "torch.distributed.run", f"--nproc-per-node={place.devices}"]


RECIPE = Recipe(
    "neuron",
    RUNNERS / "run_neuron.py",
    config,
    {"NEURON_CC_FLAGS": "--model-type transformer", "NEURON_FUSE_SOFTMAX": "1"},
    _launcher,
)
