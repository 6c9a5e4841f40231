"""Unsloth (https://github.com/unslothai/unsloth): its patched model, under transformers' ``Trainer``."""

from __future__ import annotations

from graftwork.core.specs import RunSpec
from graftwork.training.backends.command.recipe import RUNNERS, Place, Recipe, arguments_of


def config(spec: RunSpec, place: Place) -> dict[str, dict[str, object]]:
    """Arguments of ``FastLanguageModel.from_pretrained``, ``.get_peft_model`` and ``TrainingArguments``."""
    lora = spec.lora
    seed = spec.seed % (1 << 32)
    arguments = {**arguments_of(spec, place), "report_to": "none", "remove_unused_columns": False}
    if spec.schedule.neftune_alpha is not None:
        arguments["neftune_noise_alpha"] = spec.schedule.neftune_alpha
    return {
        "from_pretrained": {
            "model_name": str(place.base),
            "max_seq_length": place.longest,
            "load_in_4bit": spec.quantization == "nf4",
            "load_in_16bit": spec.quantization == "none",
            "use_exact_model_name": True,
        },
        "get_peft_model": {
            "r": lora.rank,
            "target_modules": list(place.targets),
            "lora_alpha": int(lora.alpha),
            "lora_dropout": lora.dropout,
            "bias": "none",
            "use_rslora": lora.rslora,
            "random_state": seed,
            "max_seq_length": place.longest,
        },
        "arguments": arguments,
        "train": {"resume_from_checkpoint": None if place.resume is None else str(place.resume)},
    }


RECIPE = Recipe(
    "unsloth",
    RUNNERS / "run_unsloth.py",
    config,
    {"UNSLOTH_DISABLE_STATISTICS": "1"},
    single=True,
)
