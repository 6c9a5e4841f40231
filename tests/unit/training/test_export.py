"""What leaves is PEFT's format: it loads with plain transformers + PEFT and says the same."""

import json

import pytest
import torch
from peft import PeftModel
from tinytraining import make_rows
from transformers import AutoModelForCausalLM

from graftwork.core.errors import TrainingError
from graftwork.core.specs import BaseRef, LoraSpec
from graftwork.training.export import peft_config, write_adapter

BASE = BaseRef(name="tiny", repository="org/tiny", revision="abc")


def trained(engine, lora):
    adapter = engine.add(lora, seed=1)
    adapter.weights.copy_(
        torch.randn(adapter.weights.shape, generator=torch.Generator().manual_seed(3)) * 0.2
    )
    return adapter


@pytest.mark.filterwarnings(
    "ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"
)  # PEFT asks for it
@pytest.mark.parametrize(
    "lora",
    [
        LoraSpec(rank=4, alpha=8, dropout=0.1),
        LoraSpec(rank=3, alpha=5.5, rslora=True, targets=("q_proj", "down_proj")),
    ],
)
def test_plain_peft_gives_the_engines_logprobs(base, engine, renderer, tmp_path, lora):
    adapter = trained(engine, lora)
    write_adapter(tmp_path, adapter, lora, BASE)
    plain = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), tmp_path).eval()
    for row in make_rows(3):
        tokens = renderer.encode(row).tokens
        with torch.no_grad():
            table = plain(input_ids=torch.tensor([tokens])).logits[0].log_softmax(-1)
        wanted = [table[at, token].item() for at, token in enumerate(tokens[1:])]
        assert engine.logprobs(adapter, tokens, 1) == pytest.approx(wanted, abs=1e-4)
        assert engine.logprobs(None, tokens, 1) != pytest.approx(wanted, abs=1e-2)


def test_the_config_holds_what_is_needed_and_no_more(engine, tmp_path):
    lora = LoraSpec(rank=4, alpha=8)
    write_adapter(tmp_path, trained(engine, lora), lora, BASE)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "adapter_config.json",
        "adapter_model.safetensors",
    ]
    assert json.loads((tmp_path / "adapter_config.json").read_text()) == {
        "base_model_name_or_path": "org/tiny",
        "bias": "none",
        "inference_mode": True,
        "lora_alpha": 8,
        "lora_dropout": 0.0,
        "peft_type": "LORA",
        "r": 4,
        "target_modules": ["down_proj", "gate_proj", "k_proj", "o_proj", "q_proj", "up_proj", "v_proj"],
        "task_type": "CAUSAL_LM",
        "use_rslora": False,
    }


def test_the_same_adapter_is_the_same_bytes(engine, tmp_path):
    lora = LoraSpec(rank=4, alpha=8)
    adapter = trained(engine, lora)
    for name in ("a", "b"):
        write_adapter(tmp_path / name, adapter, lora, BASE)
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


@pytest.mark.parametrize(
    ("repository", "name", "told"),
    [
        ("/srv/models/mine", "mine", "mine"),
        ("/srv/models/mine", "/srv/models/mine", "mine"),
        ("seedling", "x", "seedling"),
    ],
)
def test_no_place_on_this_machine_is_told(repository, name, told):
    config = peft_config(("q_proj",), LoraSpec(), BaseRef(name=name, repository=repository, revision="0"))
    assert config["base_model_name_or_path"] == told


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_weights_that_are_not_numbers_never_leave(engine, tmp_path, bad):
    adapter = trained(engine, LoraSpec(rank=4, alpha=8))
    adapter.weights[5] = bad
    with pytest.raises(TrainingError) as caught:
        write_adapter(tmp_path / "out", adapter, LoraSpec(), BASE)
    assert caught.value.code == "adapter_not_finite"
    assert not (tmp_path / "out").exists()
