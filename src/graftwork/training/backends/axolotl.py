"""Axolotl (https://github.com/axolotl-ai-cloud/axolotl): a LoRA on a data set that is tokens already."""

from __future__ import annotations

from graftwork.core.specs import RunSpec
from graftwork.training.backends.command.recipe import (
    DECAYS,
    RUNNERS,
    Place,
    Recipe,
)

KERNELS = ("lora_mlp_kernel", "lora_qkv_kernel", "lora_o_kernel")
"""Triton kernels that it would choose by itself; they need a GPU."""


def config(spec: RunSpec, place: Place) -> dict[str, object]:
    """What stands in its YAML file."""
    lora, schedule, cuda = spec.lora, spec.schedule, place.device == "cuda"
    said: dict[str, object] = {
        "base_model": str(place.base),
        "datasets": [{"path": str(place.train), "ds_type": "json", "type": None}],
        "dataset_prepared_path": str(place.work / "prepared"),
        "val_set_size": 0,
        "sequence_len": place.longest,
        "sample_packing": False,
        "pad_to_sequence_len": False,
        "adapter": "qlora" if spec.quantization == "nf4" else "lora",
        "load_in_4bit": spec.quantization == "nf4",
        "lora_r": lora.rank,
        "lora_alpha": int(lora.alpha),
        "lora_dropout": lora.dropout,
        "lora_target_modules": list(place.targets),
        "peft_use_rslora": lora.rslora,
        "peft_use_dora": lora.dora,
        "micro_batch_size": place.rows_at_once(spec),
        "gradient_accumulation_steps": schedule.accumulation,
        "num_epochs": schedule.n_epochs,
        "optimizer": "adamw_torch",
        "learning_rate": schedule.learning_rate,
        "lr_scheduler": DECAYS[schedule.decay],
        "warmup_steps": place.warmup_steps(spec),
        "weight_decay": schedule.weight_decay,
        "max_grad_norm": schedule.max_grad_norm,
        "seed": spec.seed % (1 << 32),
        "bf16": cuda,
        "tf32": cuda,
        "attn_implementation": "sdpa",
        "gradient_checkpointing": cuda,
        **({} if cuda else dict.fromkeys(KERNELS, False)),
        "logging_steps": 1,
        "save_strategy": "steps",
        "save_steps": schedule.checkpoint_every,
        "output_dir": str(place.out),
        "plugins": ["graft_axolotl.Graft"],
    }
    if schedule.lora_plus is not None:
        said["loraplus_lr_ratio"] = schedule.lora_plus
    if schedule.neftune_alpha is not None:
        said["neftune_noise_alpha"] = schedule.neftune_alpha
    if place.resume is not None:
        said["resume_from_checkpoint"] = str(place.resume)
    return said


RECIPE = Recipe(
    "axolotl", RUNNERS / "run_axolotl.py", config, {"AXOLOTL_DO_NOT_TRACK": "1", "DO_NOT_TRACK": "1"}
)
