"""The configs written for tools, as far as they can be judged without the tool (tests/lanes has the rest)."""

import importlib
import json
from pathlib import Path

import pytest
from tinytraining import make_spec

from graftwork.core.errors import InvalidRequest
from graftwork.core.specs import LoraSpec
from graftwork.models.trainers import ABILITIES, COMMANDS
from graftwork.training.backends.command import Place

TARGETS = ("down_proj", "gate_proj", "k_proj", "o_proj", "q_proj", "up_proj", "v_proj")


def place(**changes):
    fields = {
        "work": Path("/w"),
        "base": Path("/base"),
        "targets": TARGETS,
        "longest": 100,
        "total_steps": 20,
    }
    return Place(**{**fields, **changes})


def spec(trainer, **changes):
    asked = {"batch_size": 8, "accumulation": 2, "warmup_ratio": 0.12, "lora": LoraSpec(rank=4, alpha=8)}
    return make_spec(b'{"text":"a"}\n', trainer=trainer, seed=2**40 + 7, **{**asked, **changes})


def written(trainer, where, asked):
    recipe = importlib.import_module(f"graftwork.training.backends.{trainer}").RECIPE
    return json.loads(json.dumps(recipe.config(asked, where))), recipe.command(asked, where, "/p/python")


def flat(value):
    if not isinstance(value, dict):
        return {}
    found = {}
    for key, item in value.items():
        found |= flat(item) if isinstance(item, dict) else {key: item}
    return found


@pytest.mark.parametrize("trainer", COMMANDS)
def test_the_run_is_in_the_config(trainer):
    asked = spec(trainer)
    config, command = written(trainer, place(device="cuda"), asked)
    said = flat(config)
    assert command[0] == "/p/python"
    assert 0.01 in (said.get("learning_rate"), said.get("lr"))
    assert 3 in (said.get("warmup_steps"), said.get("lr_warmup_iters"))  # 20 × 0.12, rounded up as ours
    assert 4 in (said.get("lora_r"), said.get("lora_rank"), said.get("r"), said.get("dim"))
    assert 8 in (said.get("lora_alpha"), said.get("alpha"))
    assert said.get("micro_batch_size", said.get("per_device_train_batch_size")) == 4
    assert "/base" in json.dumps(config)
    seeds = [said[name] for name in ("seed", "random_state") if name in said]
    assert seeds and all(0 <= seed < 2**32 for seed in seeds)


@pytest.mark.parametrize("trainer", [name for name in COMMANDS if name not in ("unsloth", "neuron")])
def test_several_gpus_share_a_micro_batch_evenly(trainer):
    config, command = written(trainer, place(device="cuda", devices=3), spec(trainer))
    assert "--nproc-per-node=2" in command  # 4 rows do not divide by 3
    said = flat(config)
    assert said.get("micro_batch_size", said.get("per_device_train_batch_size")) == 2


@pytest.mark.parametrize("trainer", [name for name in COMMANDS if ABILITIES[name].resumes])
def test_a_checkpoint_is_gone_on_from(trainer):
    config, _ = written(trainer, place(resume=Path("/w/out/checkpoint-9")), spec(trainer))
    assert flat(config)["resume_from_checkpoint"] == "/w/out/checkpoint-9"
    assert flat(written(trainer, place(), spec(trainer))[0]).get("resume_from_checkpoint") is None


@pytest.mark.parametrize(
    ("trainer", "changes", "wanted"),
    [
        ("llamafactory", {"quantization": "nf4"}, {"quantization_bit": 4, "quantization_type": "nf4"}),
        ("axolotl", {"quantization": "nf4"}, {"adapter": "qlora", "load_in_4bit": True}),
        ("unsloth", {"quantization": "nf4"}, {"load_in_4bit": True, "load_in_16bit": False}),
        ("llamafactory", {"lora": LoraSpec(dora=True, rslora=True)}, {"use_dora": True, "use_rslora": True}),
        ("axolotl", {"lora": LoraSpec(dora=True)}, {"peft_use_dora": True, "peft_use_rslora": False}),
        ("llamafactory", {"lora_plus": 8.0}, {"loraplus_lr_ratio": 8.0}),
        (
            "axolotl",
            {"lora_plus": 8.0, "neftune_alpha": 5.0},
            {"loraplus_lr_ratio": 8.0, "neftune_noise_alpha": 5.0},
        ),
        ("unsloth", {"neftune_alpha": 5.0}, {"neftune_noise_alpha": 5.0}),
        ("axolotl", {"decay": "constant"}, {"lr_scheduler": "constant_with_warmup"}),
        ("nemo", {"decay": "linear"}, {"lr_decay_style": "linear"}),
    ],
)
def test_options_go_under_the_tools_own_names(trainer, changes, wanted):
    said = flat(written(trainer, place(device="cuda"), spec(trainer, **changes))[0])
    assert {name: said[name] for name in wanted} == wanted


def test_a_layer_that_megatron_has_not_is_refused():
    with pytest.raises(InvalidRequest) as caught:
        written("nemo", place(targets=("in_proj_qkvz", "q_proj")), spec("nemo"))
    assert caught.value.code == "trainer_cannot" and "in_proj_qkvz" in caught.value.message
