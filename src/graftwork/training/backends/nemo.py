"""NeMo's Megatron Bridge (https://github.com/NVIDIA-NeMo/Megatron-Bridge): LoRA on Megatron-Core models.

The base is imported from its Hugging Face folder, trained in Megatron's layout, and the adapter comes back
through the bridge's own export. Megatron fuses projections; ``CanonicalLoRA`` keeps an adapter for each, as
PEFT has them. Its checkpoints stay its own: a later attempt starts again.
"""

from __future__ import annotations

from graftwork.core.errors import InvalidRequest
from graftwork.core.specs import RunSpec
from graftwork.training.backends.command.recipe import RUNNERS, Place, Recipe

TARGETS = {
    "q_proj": "linear_q",
    "k_proj": "linear_k",
    "v_proj": "linear_v",
    "o_proj": "linear_proj",
    "gate_proj": "linear_fc1_gate",
    "up_proj": "linear_fc1_up",
    "down_proj": "linear_fc2",
}
"""Modules as Hugging Face names them, and as ``CanonicalLoRA`` does."""
ROUND = 64
"""Rows are padded to a multiple of this many tokens."""


def config(spec: RunSpec, place: Place) -> dict[str, dict[str, object]]:
    """Sections of Megatron Bridge's ``ConfigContainer``, the adapter, and what our callback does.

    Raises:
        InvalidRequest: ``trainer_cannot``, a target that Megatron's layers do not have.
    """
    schedule, lora = spec.schedule, spec.lora
    unknown = [target for target in place.targets if target not in TARGETS]
    if unknown:
        raise InvalidRequest(
            f"The nemo trainer has no layer for {', '.join(unknown)}.",
            fix=f"Use some of {', '.join(TARGETS)}, or another trainer.",
            code="trainer_cannot",
            param="lora.targets",
        )
    seed = spec.seed % (1 << 31)
    length = -(-place.longest // ROUND) * ROUND
    return {
        "base": {"name": str(place.base), "imported": str(place.work / "megatron")},
        "train": {
            "train_iters": place.total_steps,
            "global_batch_size": schedule.batch_size,
            "micro_batch_size": place.rows_at_once(spec),
            "eval_iters": 0,
            "eval_interval": None,
            "exit_signal_handler": True,
        },
        "optimizer": {
            "optimizer": "adam",
            "lr": schedule.learning_rate,
            "min_lr": 0.0,
            "weight_decay": schedule.weight_decay,
            "clip_grad": schedule.max_grad_norm,
            "adam_beta1": 0.9,
            "adam_beta2": 0.999,
            "bf16": True,
            "use_distributed_optimizer": True,
        },
        "scheduler": {
            "lr_decay_style": schedule.decay,
            "lr_decay_iters": place.total_steps,
            "lr_warmup_iters": place.warmup_steps(spec),
            "start_weight_decay": schedule.weight_decay,
            "end_weight_decay": schedule.weight_decay,
        },
        "dataset": {"dataloader_type": "cyclic", "num_workers": 1},
        "rows": {"path": str(place.train), "length": length},
        "rng": {"seed": seed},
        "logger": {"log_interval": 1},
        "lora": {
            "target_modules": [TARGETS[target] for target in place.targets],
            "dim": lora.rank,
            "alpha": int(lora.alpha),
            "dropout": lora.dropout,
        },
        "peft": {
            "peft_type": "LORA",
            "r": lora.rank,
            "lora_alpha": int(lora.alpha),
            "target_modules": list(place.targets),
        },
        "out": {"folder": str(place.out), "every": schedule.checkpoint_every},
    }


RECIPE = Recipe("nemo", RUNNERS / "run_nemo.py", config)
