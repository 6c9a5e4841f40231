"""What an adapter changes in each architecture, and that PEFT finds the same under the same names."""

import json
import warnings

import pytest
import torch
from peft import PeftModel
from safetensors import safe_open
from tinymodels import make_model
from transformers import AutoModelForCausalLM

from graftwork.core.errors import InvalidRequest
from graftwork.core.specs import BaseRef, LoraSpec
from graftwork.data.rendering import Encoded
from graftwork.training.engine import Work
from graftwork.training.export import write_adapter
from graftwork.training.solo import SoloEngine
from graftwork.training.targets import Inventory

BASE = BaseRef(name="tiny", repository="tiny", revision="0")
ROW = Encoded(tokens=list(range(20, 40)), labels=[0] * 8 + [1] * 12, length=20)
EXPERTS = ("mlp.experts.down_proj", "mlp.experts.gate_up_proj")
SHARED = tuple(f"mlp.shared_expert.{name}_proj.weight" for name in ("down", "gate", "up"))


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("models")
    made = {}

    def folder(architecture):
        if architecture not in made:
            made[architecture] = make_model(root / architecture, architecture)
        return made[architecture]

    return folder


def model_of(folder):
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)


def targets_of(model, **lora):
    return Inventory.of(model, model.get_decoder(), model.get_output_embeddings()).targets(LoraSpec(**lora))


@pytest.mark.parametrize(
    ("architecture", "modules", "parameters"),
    [
        ("qwen3", "down_proj gate_proj k_proj o_proj q_proj up_proj v_proj", ()),
        ("glm4", "down_proj gate_up_proj k_proj o_proj q_proj v_proj", ()),
        ("qwen3_moe", "k_proj o_proj q_proj v_proj", EXPERTS),
        ("gpt_oss", "k_proj o_proj q_proj v_proj", EXPERTS),
        (
            "qwen3_next",
            "in_proj_ba in_proj_qkvz k_proj o_proj out_proj q_proj shared_expert_gate v_proj",
            EXPERTS + SHARED,
        ),
    ],
)
def test_all_linear_is_everything_but_router_and_head(folders, architecture, modules, parameters):
    targets = targets_of(model_of(folders(architecture)))
    assert " ".join(targets.modules) == modules
    assert targets.parameters == tuple(sorted(parameters))


def test_rank_is_shared_among_the_active_experts_unless_asked(folders):
    model = model_of(folders("qwen3_moe"))
    assert targets_of(model, rank=16).expert_rank == 8  # two are active
    assert targets_of(model, rank=1).expert_rank == 1
    assert targets_of(model, rank=16, expert_rank=3).expert_rank == 3
    assert targets_of(model, targets=("q_proj",)).expert_rank is None


def test_names_that_are_no_targets_are_refused(folders):
    with pytest.raises(InvalidRequest, match="experts"):
        targets_of(model_of(folders("qwen3")), targets=("experts",))
    mixture = model_of(folders("qwen3_next"))
    with pytest.raises(InvalidRequest, match="DoRA cannot"):
        targets_of(mixture, targets=("up_proj",), dora=True)
    plain = targets_of(mixture, dora=True)
    assert plain.parameters == () and "in_proj_qkvz" in plain.modules


@pytest.mark.parametrize("rslora", [False, True])
@pytest.mark.parametrize("architecture", ["qwen3_moe", "qwen3_next", "gpt_oss"])
def test_peft_loads_what_was_trained_and_says_the_same(folders, tmp_path, architecture, rslora):
    folder = folders(architecture)
    engine = SoloEngine.load(folder, torch.device("cpu"))
    lora = LoraSpec(rank=6, alpha=9, expert_rank=2, rslora=rslora)
    adapter = engine.add(lora, seed=3)
    adapter.weights.add_(torch.randn(adapter.weights.shape, generator=torch.Generator().manual_seed(1)) * 0.1)
    ours = engine.logprobs(adapter, ROW.tokens, 1)
    write_adapter(tmp_path / "adapter", adapter, lora, BASE)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)  # PEFT warns of missing and of unexpected keys
        # a property that transformers renamed; nothing of ours
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning)
        # PEFT looks for a pattern's target among modules only; the equal logits say that it was used
        warnings.filterwarnings("ignore", "The following (rank|alpha)_pattern keys", RuntimeWarning)
        theirs = PeftModel.from_pretrained(model_of(folder), tmp_path / "adapter").eval()
    with torch.no_grad():
        table = torch.log_softmax(theirs(torch.tensor([ROW.tokens])).logits[0, :-1].float(), -1)
        base = torch.log_softmax(model_of(folder)(torch.tensor([ROW.tokens])).logits[0, :-1].float(), -1)
    wanted = torch.tensor(ROW.tokens[1:])[:, None]
    torch.testing.assert_close(torch.tensor(ours), table.gather(1, wanted)[:, 0], rtol=1e-4, atol=1e-4)
    assert (base - table).abs().max() > 0.1
    with safe_open(tmp_path / "adapter" / "adapter_model.safetensors", "pt") as file:
        assert set(file.keys()) == set(adapter.tensors())


def test_experts_config_scales_all_targets_alike(folders, tmp_path):
    engine = SoloEngine.load(folders("qwen3_moe"), torch.device("cpu"))
    lora = LoraSpec(rank=8, alpha=16)
    write_adapter(tmp_path, engine.add(lora, seed=0), lora, BASE)
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    assert config["rank_pattern"] == dict.fromkeys(sorted(EXPERTS), 4)
    assert config["alpha_pattern"] == dict.fromkeys(sorted(EXPERTS), 8)
    assert config["target_parameters"] == sorted(EXPERTS)


@pytest.mark.parametrize("architecture", ["qwen3_moe", "qwen3_next"])
def test_every_target_learns(folders, architecture):
    engine = SoloEngine.load(folders(architecture), torch.device("cpu"))
    adapter = engine.add(LoraSpec(rank=4, alpha=8), seed=0)
    engine.forward_backward([Work(adapter, [[ROW]], seed=0)])
    for name, slope in adapter.tensors(adapter.grad).items():
        assert bool(slope.any()) == name.endswith("lora_B.weight"), name
