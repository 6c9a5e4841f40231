"""The configs for tools that need an accelerator, against the sources of their published packages.

Nothing is imported: signatures and dataclass fields are read off the syntax.
"""

import ast
import importlib
import json
import os
import subprocess
from pathlib import Path

import pytest
from tinytraining import make_spec

from graftwork.core.specs import LoraSpec
from graftwork.training.backends.command import Place

LANE = os.environ.get("GRAFTWORK_LANE_RECIPES")
pytestmark = pytest.mark.skipif(LANE is None, reason="needs `make lane-recipes`")


@pytest.fixture(scope="module")
def packages():
    where = "import sysconfig; print(sysconfig.get_paths()['purelib'])"
    return Path(
        subprocess.run([LANE, "-c", where], capture_output=True, text=True, check=True).stdout.strip()
    )


def classes(path):
    return {
        node.name: node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.ClassDef)
    }


def fields(path, name):
    """Annotated fields of a dataclass, those of its bases in the same file included."""
    known = classes(path)
    found = {
        node.target.id: node
        for node in known[name].body
        if isinstance(node, ast.AnnAssign)
        if isinstance(node.target, ast.Name)
    }
    for base in known[name].bases:
        if isinstance(base, ast.Name) and base.id in known:
            found |= fields(path, base.id)
    return found


def required(path, name):
    return {field for field, node in fields(path, name).items() if node.value is None}


def parameters(path, function, nth=0):
    found = [
        node
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef) and node.name == function
    ]
    return {argument.arg for argument in found[nth].args.args}


def written(trainer, **changes):
    asked = make_spec(
        b'{"text":"a"}\n',
        trainer=trainer,
        lora=LoraSpec(rank=4, alpha=8),
        batch_size=8,
        accumulation=2,
        **changes,
    )
    place = Place(Path("/w"), Path("/base"), ("q_proj", "v_proj"), 100, 20, "cuda", 2)
    recipe = importlib.import_module(f"graftwork.training.backends.{trainer}").RECIPE
    return json.loads(json.dumps(recipe.config(asked, place)))


def test_unsloth(packages):
    said = written("unsloth", neftune_alpha=5.0)
    models = packages / "unsloth" / "models"
    assert set(said["from_pretrained"]) <= parameters(models / "loader.py", "from_pretrained")
    assert set(said["get_peft_model"]) <= parameters(models / "llama.py", "get_peft_model")
    from transformers import TrainingArguments

    assert set(said["arguments"]) <= set(TrainingArguments.__dataclass_fields__)


def test_optimum_neuron(packages):
    said = written("neuron")
    source = packages / "optimum" / "neuron" / "trainers" / "training_args.py"
    assert set(said["arguments"]) <= set(fields(source, "NeuronTrainingArguments"))
    from peft import LoraConfig

    assert set(said["lora"]) <= set(LoraConfig.__dataclass_fields__)
    neuron = packages / "optimum" / "neuron"
    trainer = classes(neuron / "trainers" / "transformers.py")["NeuronTrainer"]
    init = next(
        node for node in trainer.body if isinstance(node, ast.FunctionDef) and node.name == "__init__"
    )
    assert {"model", "args", "train_dataset", "callbacks"} <= {argument.arg for argument in init.args.args}
    assert "trn_config" in source.read_text()
    joins = parameters(
        neuron / "models" / "training" / "checkpointing.py",
        "consolidate_model_parallel_checkpoints_to_unified_checkpoint",
    )
    assert {"checkpoint_dir", "output_dir"} <= joins


def test_megatron_bridge(packages):
    said = written("nemo")
    bridge = packages / "megatron" / "bridge"
    config = bridge / "training" / "config.py"
    for section, name in {
        "train": "TrainingConfig",
        "scheduler": "SchedulerConfig",
        "rng": "RNGConfig",
        "logger": "LoggerConfig",
        "dataset": "DataloaderConfig",
    }.items():
        assert set(said[section]) <= set(fields(config, name)), section
    assert set(said["lora"]) <= set(fields(bridge / "peft" / "canonical_lora.py", "CanonicalLoRA"))
    given = {"model", "train", "optimizer", "scheduler", "dataset", "logger", "tokenizer", "checkpoint"}
    assert required(config, "ConfigContainer") <= given
    assert given | {"rng", "ddp", "peft"} <= set(fields(config, "ConfigContainer"))
    assert "callbacks" in parameters(bridge / "training" / "pretrain.py", "pretrain")
    whole = bridge / "models" / "conversion" / "auto_bridge.py"
    assert {"model", "cpu", "show_progress"} <= parameters(whole, "export_adapter_weights")
    assert {"on_train_step_end", "on_train_end"} <= {
        node.name
        for node in classes(bridge / "training" / "callbacks.py")["Callback"].body
        if isinstance(node, ast.FunctionDef)
    }
    context = fields(bridge / "training" / "callbacks.py", "CallbackContext")
    assert {"state", "model", "optimizer", "loss_dict", "grad_norm"} <= set(context)


def test_the_names_that_scripts_import_exist(packages):
    """Each ``from tool… import name`` of the runners, looked up in the tool's sources."""
    from graftwork.training.backends.command.recipe import RUNNERS

    tools = {"unsloth", "optimum", "megatron.bridge"}
    looked = 0
    for script in RUNNERS.glob("run_*.py"):
        for node in ast.walk(ast.parse(script.read_text())):
            module = node.module if isinstance(node, ast.ImportFrom) else None
            if module is None or not any(module == tool or module.startswith(tool + ".") for tool in tools):
                continue
            place = packages.joinpath(*module.split("."))
            source = place / "__init__.py" if place.is_dir() else place.with_suffix(".py")
            for alias in node.names:
                looked += 1
                assert alias.name in source.read_text(), f"{script.name}: {module}.{alias.name}"
    assert looked >= 10
