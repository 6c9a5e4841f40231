"""A merged checkpoint is the base plus the adapter, for every architecture, however it lies on disk."""

from __future__ import annotations

import hashlib
import json
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tinyadapters import everything, load_plain, make_random_adapter, plain_logits
from tinymodels import make_model
from transformers import AutoModelForCausalLM, AutoTokenizer

from graftwork.core.errors import Conflict, InvalidRequest
from graftwork.models.merge import merge
from graftwork.models.tensorfile import TensorFile, decode, encode

TOKENS = [5, 9, 30, 44, 7, 8, 99, 21, 5, 6, 12]
SHOWN = ("qwen3", "llama", "mistral", "qwen3_moe", "qwen3_next")


def _same(merged: Path, base: Path, adapter: Path, bound: float = 2e-4) -> None:
    plain, changed = plain_logits(load_plain(base), TOKENS), plain_logits(load_plain(base, adapter), TOKENS)
    assert (plain - changed).abs().max() > 0.5  # else the comparison would prove nothing
    assert (plain_logits(load_plain(merged), TOKENS) - changed).abs().max() < bound


@pytest.fixture(scope="module")
def qwen(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("qwen") / "base")


@pytest.fixture(scope="module")
def adapter(qwen: Path) -> Path:
    return everything(qwen.parent / "adapter", qwen, "qwen3")


@pytest.mark.parametrize("architecture", [*SHOWN, "gemma3_text", "glm4"])
def test_merged_is_base_plus_adapter(tmp_path: Path, architecture: str) -> None:
    base = make_model(tmp_path / "base", architecture)
    made = everything(tmp_path / "adapter", base, architecture)
    merge(base, made, tmp_path / "merged")
    _same(tmp_path / "merged", base, made)


@pytest.mark.parametrize("architecture", ["qwen3", "qwen3_moe", "qwen3_next"])
def test_rank_stabilized_with_ranks_of_their_own_for_experts(tmp_path: Path, architecture: str) -> None:
    base = make_model(tmp_path / "base", architecture)
    own = {"expert_rank": 2} if architecture != "qwen3" else {}
    made = everything(tmp_path / "adapter", base, architecture, use_rslora=True, **own)
    merge(base, made, tmp_path / "merged")
    _same(tmp_path / "merged", base, made)


def test_dora(tmp_path: Path, qwen: Path) -> None:
    made = everything(tmp_path / "adapter", qwen, "qwen3", use_dora=True)
    merge(qwen, made, tmp_path / "merged")
    _same(tmp_path / "merged", qwen, made)


def test_stacked_experts_and_several_shards(tmp_path: Path) -> None:
    base = make_model(tmp_path / "base", "qwen3_moe")
    model = AutoModelForCausalLM.from_pretrained(base)
    stacked = tmp_path / "stacked"
    model.save_pretrained(stacked, save_original_format=False, max_shard_size="60KB")
    assert len(list(stacked.glob("*.safetensors"))) > 2
    assert any(
        "experts.gate_up_proj" in name for name in json.loads(_index(stacked).read_text())["weight_map"]
    )
    made = everything(tmp_path / "adapter", base, "qwen3_moe", expert_rank=3)
    merge(stacked, made, tmp_path / "merged")
    _same(tmp_path / "merged", base, made)
    assert _index(tmp_path / "merged").read_bytes() == _index(stacked).read_bytes()
    shapes = {}
    for folder in (stacked, tmp_path / "merged"):
        shapes[folder] = {p.name: p.stat().st_size for p in folder.glob("*.safetensors")}
    assert shapes[stacked] == shapes[tmp_path / "merged"]


def _index(folder: Path) -> Path:
    return folder / "model.safetensors.index.json"


def test_bfloat16_is_rounded_once(tmp_path: Path, qwen: Path, adapter: Path) -> None:
    base = tmp_path / "base"
    AutoModelForCausalLM.from_pretrained(qwen).to(torch.bfloat16).save_pretrained(base)
    merge(base, adapter, tmp_path / "merged")
    old, new = (load_file(folder / "model.safetensors") for folder in (base, tmp_path / "merged"))
    halves = load_file(adapter / "adapter_model.safetensors")
    for name, weight in new.items():
        assert weight.dtype == torch.bfloat16
        key = f"base_model.model.{name.removesuffix('.weight')}.lora_"
        if f"{key}A.weight" in halves:
            exact = old[name].float() + 2 * halves[f"{key}B.weight"] @ halves[f"{key}A.weight"]
            # one unit in the last place where float32 sums in another order
            assert (weight.float() - exact).abs().max() <= (exact.abs() * 2**-8).max()
            assert (weight == exact.bfloat16()).float().mean() > 0.99
        else:
            assert torch.equal(weight, old[name])


def test_tokenizer_template_and_manifest(tmp_path: Path, qwen: Path, adapter: Path) -> None:
    (tmp_path / "base").mkdir()
    for path in qwen.iterdir():
        (tmp_path / "base" / path.name).symlink_to(path)
    (tmp_path / "base" / "modeling_evil.py").write_text("raise SystemExit")
    (tmp_path / "base" / "pytorch_model.bin").write_bytes(b"pickle")
    manifest = merge(tmp_path / "base", adapter, tmp_path / "merged")
    names = {path.name for path in (tmp_path / "merged").iterdir()}
    assert names == {*manifest.files, "manifest.json"}
    assert not names & {"modeling_evil.py", "pytorch_model.bin"}
    for name, record in manifest.files.items():
        data = (tmp_path / "merged" / name).read_bytes()
        assert (record.sha256, record.bytes) == (hashlib.sha256(data).hexdigest(), len(data))
    told = json.loads((tmp_path / "merged" / "manifest.json").read_text())
    assert told["changed"] == manifest.changed and len(manifest.changed) == 14
    assert told["adapter"] == hashlib.sha256((adapter / "adapter_model.safetensors").read_bytes()).hexdigest()
    question = [{"role": "user", "content": "red dog"}]
    asked = [
        AutoTokenizer.from_pretrained(folder).apply_chat_template(question, add_generation_prompt=True)
        for folder in (qwen, tmp_path / "merged")
    ]
    assert asked[0] == asked[1]


def test_what_does_not_fit_leaves_nothing_behind(tmp_path: Path, qwen: Path, adapter: Path) -> None:
    other = make_model(tmp_path / "other", hidden_size=48)
    with pytest.raises(InvalidRequest, match=r"in the base, and .* by the adapter") as caught:
        merge(other, adapter, tmp_path / "merged")
    assert caught.value.code == "invalid_adapter"
    assert {path.name for path in tmp_path.iterdir()} == {"other"}
    with pytest.raises(Conflict):
        merge(qwen, adapter, other)


def test_no_weight_is_silently_left_out(tmp_path: Path, qwen: Path) -> None:
    untied = make_model(tmp_path / "untied", "llama")
    head = make_random_adapter(tmp_path / "head", untied, modules=("lm_head",))
    merge(untied, head, tmp_path / "merged")
    _same(tmp_path / "merged", untied, head)
    with pytest.raises(InvalidRequest, match="its output layer is its embedding"):
        merge(qwen, head, tmp_path / "never")
    mixture = make_model(tmp_path / "mixture", "qwen3_moe")
    made = everything(tmp_path / "experts", mixture, "qwen3_moe")
    fewer = make_model(tmp_path / "fewer", "qwen3_moe", num_hidden_layers=1)
    with pytest.raises(InvalidRequest, match=r"no weight for model\.layers\.1\.mlp\.experts"):
        merge(fewer, made, tmp_path / "never")


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({"modules_to_save": ["lm_head"]}, "modules_to_save"),
        ({"bias": "all"}, "biases"),
        ({"peft_type": "LOHA"}, "peft_type"),
        ({"use_dora": True}, "DoRA magnitude"),
        ({"r": 8}, "says 8"),
        ({"init_lora_weights": "pissa"}, "pissa"),
        ({"rank_pattern": {"(a+)+$": 3}}, "not a module's name"),
        ({"lora_alpha": "x"}, "not a number"),
    ],
)
def test_another_method_is_refused(
    tmp_path: Path, qwen: Path, adapter: Path, fields: dict[str, object], why: str
) -> None:
    spoiled = tmp_path / "spoiled"
    spoiled.mkdir()
    (spoiled / "adapter_model.safetensors").symlink_to(adapter / "adapter_model.safetensors")
    config = json.loads((adapter / "adapter_config.json").read_text())
    (spoiled / "adapter_config.json").write_text(json.dumps({**config, **fields}))
    with pytest.raises(InvalidRequest, match=why):
        merge(qwen, spoiled, tmp_path / "merged")


def test_numbers_that_are_not_finite_are_refused(tmp_path: Path, qwen: Path, adapter: Path) -> None:
    spoiled = tmp_path / "spoiled"
    spoiled.mkdir()
    halves = load_file(adapter / "adapter_model.safetensors")
    next(iter(halves.values()))[0, 0] = float("nan")
    save_file(halves, spoiled / "adapter_model.safetensors")
    (spoiled / "adapter_config.json").write_bytes((adapter / "adapter_config.json").read_bytes())
    with pytest.raises(InvalidRequest, match="not finite"):
        merge(qwen, spoiled, tmp_path / "merged")


def test_quantized_and_incomplete_bases_are_refused(tmp_path: Path, qwen: Path, adapter: Path) -> None:
    base = tmp_path / "base"
    base.mkdir()
    config = json.loads((qwen / "config.json").read_text())
    (base / "config.json").write_text(json.dumps(config))
    with pytest.raises(InvalidRequest, match="lacks"):
        merge(base, adapter, tmp_path / "merged")
    (base / "config.json").write_text(json.dumps({**config, "quantization_config": {"bits": 4}}))
    with pytest.raises(InvalidRequest, match="quantized"):
        merge(base, adapter, tmp_path / "merged")


def test_never_a_whole_weight_in_memory(tmp_path: Path) -> None:
    rows, columns = 8192, 4096
    base, made = tmp_path / "base", tmp_path / "adapter"
    base.mkdir()
    made.mkdir()
    (base / "config.json").write_text('{"model_type": "llama"}')
    save_file(
        {f"layers.{i}.w.weight": torch.zeros(rows, columns, dtype=torch.bfloat16) for i in range(2)},
        base / "model.safetensors",
    )
    save_file(
        {
            "base_model.model.layers.0.w.lora_A.weight": torch.ones(1, columns),
            "base_model.model.layers.0.w.lora_B.weight": torch.ones(rows, 1),
        },
        made / "adapter_model.safetensors",
    )
    (made / "adapter_config.json").write_text('{"peft_type": "LORA", "r": 1, "lora_alpha": 3}')
    tracemalloc.start()
    try:
        merge(base, made, tmp_path / "merged")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < rows * columns * 2  # less than one weight as it lies on disk
    merged = load_file(tmp_path / "merged" / "model.safetensors")
    assert bool((merged["layers.0.w.weight"] == 3).all()) and bool((merged["layers.1.w.weight"] == 0).all())


@pytest.mark.parametrize("dtype", ["BF16", "F16", "F32"])
def test_numbers_round_as_torch_rounds(dtype: str) -> None:
    types = {"BF16": torch.bfloat16, "F16": torch.float16, "F32": torch.float32}
    random = np.random.default_rng(0)
    values = (random.standard_normal(5000) * 10.0 ** random.integers(-6, 4, 5000)).astype(np.float32)
    values[:3] = [np.nan, np.inf, -0.0]
    expected = torch.from_numpy(values).to(types[dtype]).float().numpy()
    np.testing.assert_array_equal(decode(encode(values, dtype), dtype), expected)


def test_a_broken_file_is_told(tmp_path: Path) -> None:
    (tmp_path / "x.safetensors").write_bytes(b"\x08\0\0\0\0\0\0\0{}")
    with pytest.raises(InvalidRequest, match="no readable safetensors") as caught:
        TensorFile(tmp_path / "x.safetensors")
    assert caught.value.code == "model_folder_invalid"
