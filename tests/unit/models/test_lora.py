"""What an adapter's tensors mean follows PEFT's naming, and nothing is guessed."""

from __future__ import annotations

from typing import Any

import pytest

from graftwork.models.lora import NotPlainLora, parts_of

LAYER = "base_model.model.model.layers.0."
CONFIG: dict[str, Any] = {"peft_type": "LORA", "r": 4, "lora_alpha": 8}
EXPERTS = ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"]


def _shapes(path: str, rank: int, inputs: int = 6, outputs: int = 10) -> dict[str, tuple[int, ...]]:
    return {
        f"{LAYER}{path}.lora_A.weight": (rank, inputs),
        f"{LAYER}{path}.lora_B.weight": (outputs, rank),
    }


def test_of_nested_wrappers_the_parameter_declared_first_lies_innermost() -> None:
    shapes = {**_shapes("mlp.experts.base_layer", 12), **_shapes("mlp.experts", 12)}
    parts = parts_of({**CONFIG, "target_parameters": EXPERTS}, shapes, experts=3)
    assert {part.target: (part.down, part.rank, part.experts) for part in parts} == {
        "model.layers.0.mlp.experts.down_proj": (f"{LAYER}mlp.experts.lora_A.weight", 4, 3),
        "model.layers.0.mlp.experts.gate_up_proj": (f"{LAYER}mlp.experts.base_layer.lora_A.weight", 4, 3),
    }


@pytest.mark.parametrize("only", EXPERTS)
def test_one_parameter_alone_has_one_wrapper(only: str) -> None:
    (part,) = parts_of({**CONFIG, "target_parameters": [only]}, _shapes("mlp.experts", 8), experts=2)
    assert part.target.endswith(only)


def test_a_name_without_its_module_means_stacks_alone() -> None:
    shapes = {**_shapes("mlp.experts", 8), **_shapes("mlp.shared_expert.down_proj", 4)}
    config = {**CONFIG, "target_parameters": ["down_proj", "mlp.shared_expert.down_proj.weight"]}
    parts = parts_of(config, shapes, experts=2)
    assert [part.target.removeprefix("model.layers.0.mlp.") for part in parts] == [
        "experts.down_proj",
        "shared_expert.down_proj",
    ]


@pytest.mark.parametrize(
    "pattern", ["mlp.experts.down_proj", "down_proj", r".*\.down_proj", r"^.*\.experts\.down_proj$"]
)
def test_ranks_and_alphas_of_their_own_as_peft_writes_them(pattern: str) -> None:
    config = {
        **CONFIG,
        "target_parameters": ["mlp.experts.down_proj"],
        "rank_pattern": {pattern: 2},
        "alpha_pattern": {pattern: 6},
        "use_rslora": True,
    }
    shapes = {**_shapes("mlp.experts", 4), **_shapes("self_attn.q_proj", 4)}
    scales = {part.target.rpartition(".")[2]: part.scale for part in parts_of(config, shapes, experts=2)}
    assert scales == {"down_proj": pytest.approx(6 / 2**0.5), "q_proj": pytest.approx(8 / 4**0.5)}


@pytest.mark.parametrize(
    ("shapes", "experts", "why"),
    [
        (_shapes("mlp.experts", 7), 2, "not a rank for each of 2 experts"),
        (_shapes("mlp.experts", 8), 0, "not a rank for each of 0 experts"),
        (_shapes("mlp.experts.base_layer", 8), 2, "wrapped more often"),
        (_shapes("mlp.experts", 1200), 2, "ranks from 1 to 512"),
        ({"base_model.model.lm_head.weight": (4, 4)}, 2, "not a LoRA weight"),
        ({}, 2, "no weights"),
    ],
)
def test_what_does_not_fit_is_told(shapes: dict[str, tuple[int, ...]], experts: int, why: str) -> None:
    with pytest.raises(NotPlainLora, match=why):
        parts_of({**CONFIG, "target_parameters": ["mlp.experts.down_proj"]}, shapes, experts)
