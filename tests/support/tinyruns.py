"""Whole runs of the native trainer on the tiny base model, with a clock of their own."""

from __future__ import annotations

import random
from pathlib import Path

import torch
from faketime import FakeTime
from safetensors.torch import load_file
from tinytraining import WORDS

from graftwork.core.specs import RunSpec, StartRef
from graftwork.data.rendering import Renderer
from graftwork.runs.documents import Metrics, Result
from graftwork.runs.reader import RunReader, sha256_of
from graftwork.runs.transport import LocalTransport
from graftwork.training.attempt import StopSignal
from graftwork.training.base import open_engine
from graftwork.training.engine import Engine
from graftwork.training.solo import SoloEngine
from graftwork.training.train_lora import Trainer

TIMES = {"at", "tokens_per_s", "memory_mb"}


def pair(question: str, chosen: str, rejected: str) -> dict[str, object]:
    """A canonical preference row of one turn."""
    return {
        "input": {"messages": [{"role": "user", "content": question}]},
        "preferred_output": [{"role": "assistant", "content": chosen}],
        "non_preferred_output": [{"role": "assistant", "content": rejected}],
    }


def make_pairs(count: int, seed: int = 0) -> list[dict[str, object]]:
    """Pairs in which an answer that begins with red is preferred to one that begins with blue."""
    numbers = random.Random(seed)
    rows = []
    for _ in range(count):
        words = " ".join(numbers.sample(WORDS[5:], k=numbers.randint(2, 6)))
        rows.append(pair(words, f"red {words}", f"blue {words}"))
    return rows


def make_trainer(base: Path, renderer: Renderer) -> Trainer:
    """A trainer on an engine of its own: packed, and solo for DoRA, as ``open_base`` chooses."""

    def load(spec: RunSpec) -> tuple[Engine, Renderer]:
        return SoloEngine.load(base) if spec.lora.dora else open_engine(base), renderer

    return Trainer(load, StopSignal(), FakeTime(tick=0.001).clocks)


def train(uri: str, base: Path, renderer: Renderer, turns: int | None = None) -> None:
    """Train the run to its end, or be lost after ``turns`` steps."""
    trainer = make_trainer(base, renderer)
    trainer.join(uri)
    if turns is None:
        trainer.run()
    for _ in range(turns or 0):
        trainer.turn()


def result(uri: str, fence: int = 1) -> Result:
    """The attempt's result, which must be there."""
    found = RunReader(LocalTransport(uri)).result(fence)
    assert found is not None
    return found


def curve(uri: str, fence: int = 1) -> dict[int, dict[str, object]]:
    """Metrics of an attempt by step, without what depends on the clock."""
    events, _ = RunReader(LocalTransport(uri)).events(fence)
    return {e.step: e.model_dump(exclude=TIMES) for e in events if isinstance(e, Metrics)}


def adapter_files(uri: str, fence: int = 1) -> Path:
    """Folder of the resulting adapter."""
    files = result(uri, fence).adapter
    assert files is not None
    return Path(uri) / files.dir


def tensors(uri: str, fence: int = 1) -> dict[str, torch.Tensor]:
    """The resulting adapter's weights."""
    return load_file(adapter_files(uri, fence) / "adapter_model.safetensors")


def start_of(folder: Path, model: str = "support@1") -> tuple[StartRef, dict[str, bytes]]:
    """A reference to an adapter's files, and the files."""
    names = ("adapter_config.json", "adapter_model.safetensors")
    return (
        StartRef(model=model, files={name: sha256_of(folder / name) for name in names}),
        {name: (folder / name).read_bytes() for name in names},
    )
