"""Many runs in one trainer, turn by turn, against each run alone: for tests of isolation and of resuming."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch
from faketime import FakeTime
from safetensors.torch import load_file
from tinytraining import make_rows, make_run

from graftwork.core.specs import LoraSpec
from graftwork.core.states import Outcome, Want
from graftwork.data.rendering import Renderer
from graftwork.runs.documents import Control, Metrics
from graftwork.runs.folder import write_control
from graftwork.runs.reader import RunReader
from graftwork.runs.transport import LocalTransport
from graftwork.training.attempt import StopSignal
from graftwork.training.engine import Engine
from graftwork.training.session import Session
from graftwork.training.train_lora import Trainer

MODULES = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
Load = Callable[[], Engine]


@dataclass
class Company:
    """One trainer process on a clock of its own."""

    engine: Engine
    renderer: Renderer
    limit: int | None = None
    time: FakeTime = field(default_factory=lambda: FakeTime(tick=0.001))
    stop: StopSignal = field(default_factory=StopSignal)

    def __post_init__(self) -> None:
        self.trainer = Trainer(lambda base: (self.engine, self.renderer), self.stop, self.time.clocks)
        self.trainer._limit = self.limit

    def join(self, uri: str, fence: int = 1) -> Company:
        """Let a run come aboard."""
        self.tell(uri, fence)
        self.trainer.join(f"{uri}#{fence}")
        return self

    def tell(self, uri: str, fence: int = 1, want: Want = Want.RUN) -> None:
        """What is wanted of a run."""
        far = self.time.unix + 1e6
        control = Control(fence=fence, lease_until=far, deadline=far, want=want)
        write_control(LocalTransport(Path(uri)), control)

    def turn(self, count: int = 1) -> None:
        """Steps of everybody aboard."""
        for _ in range(count):
            self.time.skip(2)
            if self.trainer.sessions:
                self.trainer.turn()

    def finish(self) -> None:
        """Until nobody is aboard."""
        while self.trainer.sessions:
            self.turn()

    def session(self, uri: str) -> Session:
        """The session of a run that is aboard."""
        return next(s for s in self.trainer.sessions if s.attempt.uri == uri)

    def aboard(self, uri: str) -> bool:
        """Whether a run is."""
        return any(s.attempt.uri == uri for s in self.trainer.sessions)


def motley(folder: Path, number: int) -> str:
    """A run folder unlike the others: rank, targets, rate, rows, dropout, schedule, all by number."""
    numbers = random.Random(f"motley/{number}")
    lora = LoraSpec(
        rank=numbers.choice([1, 2, 3, 4, 8, 12]),
        alpha=numbers.choice([2, 8, 16]),
        dropout=numbers.choice([0.0, 0.1, 0.3]),
        targets="all-linear" if number % 3 == 0 else tuple(numbers.sample(MODULES, numbers.randint(1, 6))),
        rslora=number % 4 == 1,
    )
    valid = make_rows(4, seed=1000 + number) if number % 2 else None
    return make_run(
        folder,
        make_rows(numbers.randint(9, 24), seed=number),
        valid,
        lora=lora,
        seed=number,
        n_epochs=numbers.choice([2, 3]),
        batch_size=numbers.choice([2, 3, 4]),
        accumulation=numbers.choice([1, 1, 2]),
        learning_rate=numbers.choice([1e-3, 3e-3, 1e-2]),
        weight_decay=numbers.choice([0.0, 0.05]),
        max_grad_norm=numbers.choice([0.5, 1.0]),
        max_length=numbers.choice([24, 64, 128]),
        decay=numbers.choice(["cosine", "linear", "constant"]),
        checkpoint_every=4,
        eval_every=5,
    )


def alone(load: Load, renderer: Renderer, folder: Path, number: int) -> str:
    """The same run in a process of its own, unbroken."""
    uri = motley(folder, number)
    Company(load(), renderer).join(uri).finish()
    return uri


def outcome(uri: str, fence: int = 1) -> Outcome:
    """How an attempt ended."""
    result = RunReader(LocalTransport(Path(uri))).result(fence)
    assert result is not None
    return result.outcome


def tensors(uri: str, fence: int) -> dict[str, torch.Tensor]:
    """Every tensor of the furthest checkpoint: adapter, AdamW's moments."""
    found = RunReader(LocalTransport(Path(uri))).checkpoints(fence)
    _, manifest = max(found, key=lambda pair: pair[1].step)
    saved: dict[str, torch.Tensor] = {"step": torch.tensor(float(manifest.step))}
    for name in ("adapter_model.safetensors", "optimizer.safetensors"):
        saved |= {f"{name}:{key}": value for key, value in load_file(f"{uri}/{manifest.dir}/{name}").items()}
    return saved


def losses(uri: str, fence: int) -> dict[int, float]:
    """The curve over all attempts; of a repeated step the last one counts."""
    reader = RunReader(LocalTransport(Path(uri)))
    events = [event for n in range(1, fence + 1) for event in reader.events(n)[0]]
    return {event.step: event.loss for event in events if isinstance(event, Metrics)}


def distance(one: dict[str, torch.Tensor], two: dict[str, torch.Tensor]) -> tuple[float, str]:
    """The largest difference of any tensor, as a share of that tensor's largest entry, and whose it is."""
    assert one.keys() == two.keys()
    worst, name = 0.0, ""
    for key, value in one.items():
        assert value.shape == two[key].shape
        assert torch.isfinite(value).all(), key
        scale = float(value.abs().max()) or 1.0
        off = float((value.double() - two[key].double()).abs().max()) / scale
        if off > worst:
            worst, name = off, key
    return worst, name
