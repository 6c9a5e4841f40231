"""LLaMA-Factory (https://github.com/hiyouga/LLaMA-Factory): stage sft on rows that are tokens already."""

from __future__ import annotations

from graftwork.core.specs import RunSpec
from graftwork.training.backends.command.recipe import (
    RUNNERS,
    Place,
    Recipe,
    arguments_of,
)


def config(spec: RunSpec, place: Place) -> dict[str, object]:
    """What would stand in its YAML file."""
    lora, schedule = spec.lora, spec.schedule
    said: dict[str, object] = {
        **arguments_of(spec, place),
        "model_name_or_path": str(place.base),
        "stage": "sft",
        "do_train": True,
        "finetuning_type": "lora",
        "lora_rank": lora.rank,
        "lora_alpha": int(lora.alpha),
        "lora_dropout": lora.dropout,
        "lora_target": ",".join(place.targets),
        "use_rslora": lora.rslora,
        "use_dora": lora.dora,
        # The rows are rendered already: the template has nothing to do.
        "template": "empty",
        "dataset": "graftwork",  # a name; the rows are those of the next line
        "tokenized_path": str(place.work / "tokens"),
        "cutoff_len": place.longest,
        "report_to": "none",
        "plot_loss": False,
        "save_only_model": False,
        "overwrite_output_dir": True,
        "use_cpu": place.device == "cpu",
    }
    if schedule.lora_plus is not None:
        said["loraplus_lr_ratio"] = schedule.lora_plus
    if schedule.neftune_alpha is not None:
        said["neftune_noise_alpha"] = schedule.neftune_alpha
    if spec.quantization == "nf4":
        said |= {"quantization_bit": 4, "quantization_method": "bnb", "quantization_type": "nf4"}
    if place.resume is not None:
        said["resume_from_checkpoint"] = str(place.resume)
    return said


RECIPE = Recipe(
    "llamafactory",
    RUNNERS / "run_llamafactory.py",
    config,
    # It insists on the versions it was released with, also where others work.
    {"DISABLE_VERSION_CHECK": "1", "ALLOW_EXTRA_ARGS": "0"},
)
