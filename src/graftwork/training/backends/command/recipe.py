"""What one tool needs to be told, and where things lie while it works."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from graftwork.core.specs import RunSpec, TrainerName
from graftwork.data.rendering import Encoded

RUNNERS = Path(__file__).parents[1] / "runners"
"""Scripts that run inside the tools' own environments."""


@dataclass(frozen=True, slots=True)
class Place:
    """The folder of one attempt with a tool, and what the tool's config says of the run.

    Attributes:
        work: everything below is in it; removed afterwards.
        base: folder of the base model.
        targets: names of the modules to adapt.
        longest: tokens of the longest of them.
        total_steps: optimizer steps of the run.
        device: ``cuda``, ``neuron`` or ``cpu``: what the tool's Python can use.
        devices: how many of them.
        resume: a checkpoint of the tool's to go on from.
    """

    work: Path
    base: Path
    targets: tuple[str, ...]
    longest: int
    total_steps: int
    device: str = "cpu"
    devices: int = 1
    resume: Path | None = None

    @property
    def train(self) -> Path:
        """Rows as ``{"input_ids", "attention_mask", "labels"}``, one JSON object a line; -100 is no label."""
        return self.work / "data" / "train.jsonl"

    @property
    def out(self) -> Path:
        """What the tool writes."""
        return self.work / "out"

    @property
    def events(self) -> Path:
        """Lines of JSON: what our callback inside the tool says."""
        return self.work / "events.jsonl"

    @property
    def log(self) -> Path:
        """The tool's standard output and error."""
        return self.work / "tool.log"

    @property
    def config(self) -> Path:
        """What the tool is told: JSON, which is YAML too."""
        return self.work / "config.yaml"

    @property
    def kept(self) -> Path:
        """Adapters of the steps that were saved, until the best is chosen."""
        return self.work / "kept"

    def kept_at(self, step: int) -> Path:
        """Folder of the adapter of a step."""
        return self.kept / f"step-{step:06d}"

    def warmup_steps(self, spec: RunSpec) -> int:
        """Steps of linear warm-up, counted as the native trainer counts."""
        return math.ceil(self.total_steps * spec.schedule.warmup_ratio)

    def rows_at_once(self, spec: RunSpec) -> int:
        """Rows of a micro-batch on one device.

        ``processes`` divides it, see there.
        """
        return spec.schedule.batch_size // spec.schedule.accumulation // self.processes(spec)

    def processes(self, spec: RunSpec) -> int:
        """Devices that the rows of a micro-batch can be shared among evenly."""
        rows = spec.schedule.batch_size // spec.schedule.accumulation
        return next(count for count in range(self.devices, 0, -1) if rows % count == 0)


def python_or_torchrun(spec: RunSpec, place: Place, python: str) -> list[str]:
    """The tool's Python, or one for each device."""
    processes = place.processes(spec)
    if processes == 1:
        return [python]
    # A minute is too short to save a checkpoint in; torchrun's own default is half of that.
    return [python, "-m", "torch.distributed.run", f"--nproc-per-node={processes}", "--shutdown-timeout=600"]


@dataclass(frozen=True, slots=True)
class Recipe:
    """How one tool is told what to train, and run.

    Attributes:
        name: the trainer's.
        runner: the script for the tool's Python; its arguments are the files of the config and of the rows.
        config: what the tool is told.
        environment: variables besides ours.
        launcher: what starts the runner; the first element is the tool's Python.
        single: whether it trains on one device, however many there are.
    """

    name: TrainerName
    runner: Path
    config: Callable[[RunSpec, Place], Mapping[str, object]]
    environment: Mapping[str, str] = field(default_factory=dict[str, str])
    launcher: Callable[[RunSpec, Place, str], Sequence[str]] = python_or_torchrun
    single: bool = False

    def command(self, spec: RunSpec, place: Place, python: str) -> list[str]:
        """What to run."""
        launcher = self.launcher(spec, place, python)
        return [*launcher, str(self.runner), str(place.config), str(place.train)]


def write_rows(path: Path, rows: Sequence[Encoded]) -> None:
    """Rows as tokens and labels; the first token carries no loss, nothing comes before it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        for row in rows:
            labels = [
                token if label and at else -100
                for at, (token, label) in enumerate(zip(row.tokens, row.labels, strict=True))
            ]
            line = {"input_ids": row.tokens, "attention_mask": [1] * len(row.tokens), "labels": labels}
            file.write(json.dumps(line) + "\n")


DECAYS = {"cosine": "cosine", "linear": "linear", "constant": "constant_with_warmup"}
"""Our decays under the names of transformers' schedulers."""


def arguments_of(spec: RunSpec, place: Place) -> dict[str, object]:
    """``TrainingArguments`` of transformers, which most tools hand through under the same names."""
    schedule, cuda = spec.schedule, place.device == "cuda"
    return {
        "output_dir": str(place.out),
        "per_device_train_batch_size": place.rows_at_once(spec),
        "gradient_accumulation_steps": schedule.accumulation,
        "num_train_epochs": schedule.n_epochs,
        "learning_rate": schedule.learning_rate,
        "lr_scheduler_type": DECAYS[schedule.decay],
        "warmup_steps": place.warmup_steps(spec),
        "weight_decay": schedule.weight_decay,
        "max_grad_norm": schedule.max_grad_norm,
        "optim": "adamw_torch",
        "seed": spec.seed % (1 << 32),  # numpy's generators take no more
        "bf16": cuda,
        "logging_steps": 1,
        "save_strategy": "steps",
        "save_steps": schedule.checkpoint_every,
    }
