"""What is not a plain LoRA adapter for this base model is refused when it is loaded, with the reason."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from graftwork.core.errors import InvalidRequest
from graftwork.serving.embedded.adapters import Adaptable, Adapter, LinearShape, read_adapter

LINEARS = {"model.layers.0.q": LinearShape(6, 8), "model.layers.1.q": LinearShape(6, 8)}
Tensors = dict[str, torch.Tensor]


def _key(path: str, half: str) -> str:
    return f"base_model.model.{path}.lora_{half}.weight"


def _tensors() -> Tensors:
    tensors: Tensors = {}
    for path, shape in LINEARS.items():
        tensors[_key(path, "A")] = torch.randn(2, shape.inputs)
        tensors[_key(path, "B")] = torch.randn(shape.outputs, 2)
    return tensors


def _write(folder: Path, tensors: Tensors, **config: Any) -> Path:
    folder.mkdir(exist_ok=True)
    save_file(tensors, folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text(
        json.dumps({"peft_type": "LORA", "r": 2, "lora_alpha": 4, **config})
    )
    return folder


def _read(folder: Path, dtype: torch.dtype = torch.float32) -> Adapter:
    return read_adapter("name", folder, Adaptable(LINEARS), dtype, torch.device("cpu"))


@pytest.mark.parametrize(("config", "scale"), [({}, 2.0), ({"use_rslora": True}, 4 / 2**0.5)])
def test_the_scale_is_multiplied_in(tmp_path: Path, config: dict, scale: float) -> None:
    tensors = _tensors()
    pairs = _read(_write(tmp_path, tensors, **config)).pairs
    assert set(pairs) == set(LINEARS)
    for path, pair in pairs.items():
        assert pair.rank == 2
        torch.testing.assert_close(pair.down, tensors[_key(path, "A")].T)
        torch.testing.assert_close(pair.up, tensors[_key(path, "B")].T * scale)


def test_some_targets_are_enough_and_types_are_converted(tmp_path: Path) -> None:
    tensors = {key: value.half() for key, value in _tensors().items() if ".1." in key}
    pairs = _read(_write(tmp_path, tensors), torch.bfloat16).pairs
    assert list(pairs) == ["model.layers.1.q"]
    assert pairs["model.layers.1.q"].up.dtype == torch.bfloat16


def _nan(tensors: Tensors) -> None:
    tensors[_key("model.layers.1.q", "B")][3, 1] = float("nan")


def _infinity(tensors: Tensors) -> None:
    tensors[_key("model.layers.0.q", "A")][0, 0] = float("inf")


def _other_half(tensors: Tensors) -> None:
    del tensors[_key("model.layers.0.q", "B")]


def _wrong_shape(tensors: Tensors) -> None:
    tensors[_key("model.layers.0.q", "A")] = torch.zeros(2, 7)


def _ranks_differ(tensors: Tensors) -> None:
    tensors[_key("model.layers.0.q", "A")] = torch.zeros(3, 6)


def _too_high(tensors: Tensors) -> None:
    tensors[_key("model.layers.0.q", "A")] = torch.zeros(600, 6)
    tensors[_key("model.layers.0.q", "B")] = torch.zeros(8, 600)


def _flat(tensors: Tensors) -> None:
    tensors[_key("model.layers.0.q", "A")] = torch.zeros(12)


def _whole_numbers(tensors: Tensors) -> None:
    tensors[_key("model.layers.0.q", "A")] = torch.zeros(2, 6, dtype=torch.int32)


def _unknown_module(tensors: Tensors) -> None:
    tensors[_key("model.layers.7.q", "A")] = torch.zeros(2, 6)


def _head(tensors: Tensors) -> None:
    tensors[_key("lm_head", "A")] = torch.zeros(2, 6)


def _unknown_key(tensors: Tensors) -> None:
    tensors["base_model.model.model.layers.0.q.lora_magnitude_vector"] = torch.zeros(8)


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (_nan, "not finite"),
        (_infinity, "not finite"),
        (_other_half, "other half"),
        (_wrong_shape, r"needs A \[rank, 6\]"),
        (_ranks_differ, "do not fit together"),
        (_too_high, "ranks from 1 to 512"),
        (_flat, "do not fit together"),
        (_whole_numbers, "int32"),
        (_unknown_module, "model.layers.7.q"),
        (_head, "lm_head"),
        (_unknown_key, "magnitude"),
        (Tensors.clear, "no weights"),
    ],
)
def test_tensors_that_do_not_fit(tmp_path: Path, spoil: Callable[[Tensors], None], reason: str) -> None:
    tensors = _tensors()
    spoil(tensors)
    _refused(_write(tmp_path, tensors), reason)


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        ({"peft_type": "IA3"}, "LORA"),
        ({"use_dora": True}, "use_dora"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save"),
        ({"rank_pattern": {"q": 4}}, "says 4"),
        ({"lora_bias": True}, "lora_bias"),
        ({"bias": "all"}, "bias"),
        ({"init_lora_weights": "pissa"}, "pissa"),
        ({"r": 0}, "rank"),
        ({"r": 513}, "rank"),
        ({"r": "2"}, "rank"),
        ({"lora_alpha": None}, "lora_alpha"),
    ],
)
def test_methods_that_are_not_plain_lora(tmp_path: Path, config: dict, reason: str) -> None:
    _refused(_write(tmp_path, _tensors(), **config), reason)


def test_broken_and_missing_files(tmp_path: Path) -> None:
    _refused(tmp_path / "absent", "adapter_config.json")
    folder = _write(tmp_path, _tensors())
    weights = folder / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-10])
    _refused(folder, "cannot be read")
    weights.unlink()
    _refused(folder, "cannot be read")
    (folder / "adapter_config.json").write_text("{")
    _refused(folder, "not JSON")
    (folder / "adapter_config.json").write_text("[]")
    _refused(folder, "no JSON object")


def _refused(folder: Path, reason: str) -> None:
    with pytest.raises(InvalidRequest, match=reason) as caught:
        _read(folder)
    assert caught.value.code == "invalid_adapter"
