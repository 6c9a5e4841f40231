"""Adapter files: what PEFT writes passes, everything else is refused with all its problems."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import save

from graftwork.core.errors import InvalidData
from graftwork.registry import check_adapter, require_adapter

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
PREFIX = "base_model.model.model.layers.0."
SHAPES = {"q_proj": ((16, 12, 1),), "down_proj": ((24, 16, 1),)}


def a_config(**fields) -> dict:
    given = {
        "base_model_name_or_path": "seedling",
        "bias": "none",
        "inference_mode": True,
        "lora_alpha": 16,
        "lora_dropout": 0.0,
        "peft_type": "LORA",
        "r": 4,
        "target_modules": ["down_proj", "q_proj"],
        "task_type": "CAUSAL_LM",
        "use_rslora": False,
    }
    return {key: value for key, value in {**given, **fields}.items() if value is not ...}


def tensors(dtype=np.float32, **changes) -> dict[str, np.ndarray]:
    made = {}
    for module, path in (("q_proj", "self_attn.q_proj"), ("down_proj", "mlp.down_proj")):
        inputs, outputs, _ = SHAPES[module][0]
        made[f"{PREFIX}{path}.lora_A.weight"] = np.full((4, inputs), 0.5, dtype)
        made[f"{PREFIX}{path}.lora_B.weight"] = np.full((outputs, 4), -0.25, dtype)
    return {**made, **{PREFIX + name: value for name, value in changes.items()}}


def files(config=None, weights=None) -> dict[str, bytes]:
    return {
        CONFIG: json.dumps(a_config() if config is None else config).encode(),
        WEIGHTS: save(tensors() if weights is None else weights, {"format": "pt"}),
    }


def codes(problems) -> set[str]:
    return {problem.code for problem in problems}


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_a_plain_adapter_passes(dtype, tmp_path: Path):
    good = files(weights=tensors(dtype))
    assert check_adapter(good) == []
    assert check_adapter(good, shapes=SHAPES) == []
    require_adapter(good)
    for name, data in good.items():
        (tmp_path / name).write_bytes(data)
    assert check_adapter(tmp_path) == []


def raw(entries: dict, data: bytes) -> bytes:
    header = json.dumps(entries).encode()
    return len(header).to_bytes(8, "little") + header + data


def bf16(values: list[int], name: str) -> bytes:
    data = b"".join(value.to_bytes(2, "little") for value in values)
    shapes = {"A": [1, 2], "B": [1, 1]}
    ends = {"A": (0, 4), "B": (4, 6)}
    entries = {
        f"{PREFIX}{name}.lora_{half}.weight": {
            "dtype": "BF16",
            "shape": shapes[half],
            "data_offsets": ends[half],
        }
        for half in "AB"
    }
    return raw(entries, data)


@pytest.mark.parametrize(
    ("bits", "finite"), [(0x3F80, True), (0x7F7F, True), (0x7F80, False), (0xFFC0, False)]
)
def test_bfloat16_is_checked_bit_by_bit(bits: int, finite: bool):
    config = json.dumps(a_config(r=1, target_modules=["q_proj"])).encode()
    data = bf16([0x3F80, bits, 0x0000], "self_attn.q_proj")
    assert codes(check_adapter({CONFIG: config, WEIGHTS: data})) == (set() if finite else {"not_finite"})


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_numbers_that_are_none_are_refused(dtype, value: float):
    weights = tensors(dtype)
    name = f"{PREFIX}mlp.down_proj.lora_B.weight"
    weights[name][3, 2] = value
    [problem] = check_adapter(files(weights=weights))
    assert problem.code == "not_finite"
    assert name in problem.message


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"../../etc/passwd": np.zeros((1,), np.float32)}, "tensor_name"),
        ({"self_attn.q_proj.lora_embedding_A": np.zeros((4, 16), np.float32)}, "tensor_name"),
        ({"self_attn.q_proj.lora_magnitude_vector": np.zeros((12,), np.float32)}, "tensor_name"),
        ({"self_attn.q_proj.bias": np.zeros((12,), np.float32)}, "tensor_name"),
        ({"self_attn.q_proj.lora_A.weight": np.zeros((5, 16), np.float32)}, "tensor_shape"),
        ({"self_attn.q_proj.lora_A.weight": np.zeros((64,), np.float32)}, "tensor_shape"),
        ({"self_attn.q_proj.lora_A.weight": np.zeros((4, 16), np.float16)}, "tensor_shape"),
        ({"self_attn.v_proj.lora_A.weight": np.zeros((4, 16), np.float32)}, "tensor_shape"),
        ({"self_attn.q_proj.lora_A.weight": np.zeros((4, 16), np.float64)}, "malformed"),
        ({"self_attn.q_proj.lora_A.weight": np.zeros((0, 16), np.float32)}, "malformed"),
    ],
)
def test_tensors_that_are_no_lora_weights_are_refused(changes: dict, code: str):
    assert codes(check_adapter(files(weights=tensors(**changes)))) == {code}


def test_shapes_must_fit_the_base_and_the_configuration():
    wrong_base = {**SHAPES, "q_proj": ((16, 13, 1),)}
    assert "the base model has (16, 13)" in check_adapter(files(), shapes=wrong_base)[0].message
    assert codes(check_adapter(files(), shapes={"q_proj": ((16, 12, 1),)})) == {"tensor_shape"}
    assert codes(check_adapter(files(a_config(r=8)))) == {"tensor_shape"}
    assert codes(check_adapter(files(a_config(target_modules=["q_proj"])))) == {"tensor_shape"}
    assert codes(check_adapter(files(a_config(target_modules=["q_proj", "down_proj", "k_proj"])))) == {
        "target_unused"
    }
    assert codes(check_adapter(files(weights={}))) == {"empty"}


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"r": ...}, "config_key_missing"),
        ({"use_dora": False}, "config_key_unknown"),
        ({"auto_mapping": {"base_model_class": "os.system"}}, "config_key_unknown"),
        ({"peft_type": "IA3"}, "config_value"),
        ({"r": 0}, "config_value"),
        ({"r": True}, "config_value"),
        ({"r": 4.0}, "config_value"),
        ({"lora_alpha": 0}, "config_value"),
        ({"lora_dropout": 1.0}, "config_value"),
        ({"target_modules": "all-linear"}, "config_value"),
        ({"target_modules": [".*"]}, "config_value"),
        ({"target_modules": []}, "config_value"),
        ({"bias": "all"}, "config_value"),
    ],
)
def test_configurations_we_do_not_serve_are_refused(fields: dict, code: str):
    assert codes(check_adapter(files(a_config(**fields)))) == {code}


@pytest.mark.parametrize("text", ["", "[]", "{", '{"r": NaN}', '{"r": 1, "r": 2}', "\xff"])
def test_configurations_that_are_no_json_object_are_refused(text: str):
    assert "malformed" in codes(check_adapter({**files(), CONFIG: text.encode("latin-1")}))


def test_only_the_two_files_may_be_there(tmp_path: Path):
    assert codes(check_adapter({**files(), "training_args.bin": b"pickle"})) == {"extra_file"}
    assert codes(check_adapter({CONFIG: files()[CONFIG]})) == {"missing_file"}
    assert codes(check_adapter({})) == {"missing_file"}
    for name, data in files().items():
        (tmp_path / name).write_bytes(data)
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / CONFIG)
    (tmp_path / "README.md").write_text("hello")
    assert [p.file for p in check_adapter(tmp_path)] == ["folder", "link", "README.md"]


def test_malformed_safetensors_are_refused():
    good = files()[WEIGHTS]
    key = f"{PREFIX}self_attn.q_proj.lora_A.weight"
    entry = {"dtype": "F32", "shape": [1, 1], "data_offsets": [0, 4]}
    twice = f'{{"{key}": {json.dumps(entry)}, "{key}": {json.dumps(entry)}}}'.encode()
    bad = [
        b"",
        good[:7],
        good[:-1],
        good + b"\0",
        (1 << 62).to_bytes(8, "little") + good[8:],
        raw({key: {**entry, "data_offsets": [1, 5]}}, b"\0" * 5),
        raw({key: entry, f"{key}2": entry}, b"\0" * 4),
        raw({key: {**entry, "shape": [1, -1]}}, b"\0" * 4),
        raw({key: {**entry, "shape": [True, 1]}}, b"\0" * 4),
        raw({key: {**entry, "shape": 1}}, b"\0" * 4),
        raw({key: {**entry, "dtype": "F8_E4M3"}}, b"\0" * 4),
        raw({key: {**entry, "more": 1}}, b"\0" * 4),
        raw({key: [1]}, b"\0" * 4),
        raw({key: entry, "__metadata__": {"a": 1}}, b"\0" * 4),
        raw({key: entry, "__metadata__": []}, b"\0" * 4),
        len(twice).to_bytes(8, "little") + twice + b"\0" * 4,
        len(b"[" * 5000).to_bytes(8, "little") + b"[" * 5000,
    ]
    for data in bad:
        assert codes(check_adapter({**files(), WEIGHTS: data})) == {"malformed"}, data[:80]


@given(st.binary(max_size=200), st.integers(0, 300))
def test_no_bytes_make_the_check_raise(noise: bytes, place: int):
    good = files()[WEIGHTS]
    for data in (noise, good[:place] + noise + good[place:], len(noise).to_bytes(8, "little") + noise):
        assert check_adapter({CONFIG: noise, WEIGHTS: data})


def test_all_problems_come_in_one_error():
    with pytest.raises(InvalidData) as caught:
        require_adapter({**files(a_config(bias="all", r=0)), "x.bin": b""})
    assert caught.value.code == "invalid_adapter"
    assert "(and 2 more)" in caught.value.message
    assert [p["code"] for p in caught.value.details["problems"]] == [
        "extra_file",
        "config_value",
        "config_value",
    ]


def an_expert_adapter(rank=2, experts=3, **config):
    """Attention at rank 4, a shared expert and three routed experts, as PEFT writes ``target_parameters``."""
    stacks = ["mlp.experts.down_proj", "mlp.experts.gate_up_proj"]
    fields = {
        "target_modules": ["q_proj"],
        "target_parameters": [*stacks, "mlp.shared_expert.up_proj.weight"],
        "rank_pattern": dict.fromkeys(stacks, rank),
        "alpha_pattern": dict.fromkeys(stacks, 8),
        **config,
    }
    many = rank * experts
    weights = {
        f"{PREFIX}{path}.lora_{half}.weight": np.full(shape, 0.5, np.float32)
        for path, half, shape in (
            ("self_attn.q_proj", "A", (4, 16)),
            ("self_attn.q_proj", "B", (12, 4)),
            ("mlp.shared_expert.up_proj", "A", (4, 16)),
            ("mlp.shared_expert.up_proj", "B", (10, 4)),
            ("mlp.experts.base_layer", "A", (many, 16)),
            ("mlp.experts.base_layer", "B", (20, many)),
            ("mlp.experts", "A", (many, 10)),
            ("mlp.experts", "B", (16, many)),
        )
    }
    return files(a_config(**fields), weights)


MIXTURE = {
    "q_proj": ((16, 12, 1),),
    "up_proj": ((16, 24, 1), (16, 10, 1)),
    "experts.base_layer": ((16, 20, 3),),
    "experts": ((10, 16, 3),),
}


def test_experts_are_checked_as_stacks_at_their_own_rank():
    assert check_adapter(an_expert_adapter(), shapes=MIXTURE) == []
    assert check_adapter(an_expert_adapter()) == []
    more = {**MIXTURE, "experts": ((10, 16, 5),)}
    assert codes(check_adapter(an_expert_adapter(), shapes=more)) == {"tensor_shape"}
    assert codes(check_adapter(an_expert_adapter(rank_pattern={}), shapes=MIXTURE)) == {"tensor_shape"}
    only = an_expert_adapter(target_parameters=["mlp.experts.down_proj", "mlp.shared_expert.up_proj.weight"])
    assert codes(check_adapter(only, shapes=MIXTURE)) == {"tensor_shape"}


@pytest.mark.parametrize(
    "fields",
    [
        {"target_parameters": ["../up"]},
        {"rank_pattern": {".*": 2}},
        {"rank_pattern": {"mlp.experts.down_proj": 0}},
        {"alpha_pattern": {"mlp.experts.down_proj": -1}},
        {"target_parameters": "mlp.experts.down_proj"},
    ],
)
def test_strange_patterns_are_refused(fields):
    assert "config_value" in codes(check_adapter(an_expert_adapter(**fields)))
