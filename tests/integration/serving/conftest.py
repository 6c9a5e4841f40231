"""Tiny random base models and adapters of different ranks and targets, made once."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from tinyserving import ATTENTION, make_adapter, make_base


@dataclass(frozen=True)
class World:
    """A base model and its adapters by name."""

    base: Path
    adapters: dict[str, Path]


def _world(folder: Path, architecture: str) -> World:
    base = make_base(folder / "base", architecture)
    adapters = {
        "every": make_adapter(folder / "every", base, rank=4, seed=1),
        "attention": make_adapter(
            folder / "attention",
            base,
            rank=16,
            alpha=32,
            targets=ATTENTION,
            seed=2,
            config={"use_rslora": True},
        ),
        "down": make_adapter(
            folder / "down", base, rank=3, targets=("mlp.down_proj", "self_attn.o_proj"), seed=3, size=0.4
        ),
    }
    return World(base, adapters)


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """Tiny products are slower on several threads, and other tests want the cores."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session", params=["qwen3", "llama"])
def world(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> World:
    """Both architectures."""
    return _world(tmp_path_factory.mktemp(request.param), request.param)


@pytest.fixture(scope="session")
def qwen(tmp_path_factory: pytest.TempPathFactory) -> World:
    """One architecture, where it does not matter which."""
    return _world(tmp_path_factory.mktemp("one"), "qwen3")
