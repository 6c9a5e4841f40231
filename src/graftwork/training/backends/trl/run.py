"""One attempt with TRL: a session whose steps are TRL's."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import AutoTokenizer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from graftwork.core.errors import PlatformError
from graftwork.core.specs import Schedule
from graftwork.data.rendering import Renderer
from graftwork.training.attempt import Attempt
from graftwork.training.backends.trl.engine import PeftEngine, TrlMoves
from graftwork.training.backends.trl.measure import aim_of
from graftwork.training.backends.trl.trainers import features_of, feed, make_trainer
from graftwork.training.base import load_renderer, locate_base
from graftwork.training.batching import Course
from graftwork.training.engine import Sums
from graftwork.training.schedule import learning_rate
from graftwork.training.session import Makers, Session


class EvenCourse(Course):
    """A course whose steps are of like size: TRL's accumulation wants as many micro-batches in each."""

    def __init__(self, lengths: Sequence[int], schedule: Schedule, seed: int) -> None:
        super().__init__(lengths, schedule, seed)
        smallest = len(lengths) // self.steps_per_epoch
        self.accumulation = min(schedule.accumulation, smallest)

    def rows(self, step: int) -> list[list[int]]:
        """See ``Course.rows``: the epoch's order is the same, its cuts are even."""
        epoch, within = divmod(step, self.steps_per_epoch)
        batches = self.epoch(epoch)
        order = [row for batch in batches for row in batch]
        cut = _cuts(len(order), len(batches))
        return micro(order[cut[within] : cut[within + 1]], self.accumulation)


def micro(rows: list[int], parts: int) -> list[list[int]]:
    """The rows in exactly ``parts`` parts of like size."""
    cuts = _cuts(len(rows), parts)
    return [rows[cuts[at] : cuts[at + 1]] for at in range(parts)]


def _cuts(count: int, parts: int) -> list[int]:
    return [count * part // parts for part in range(parts + 1)]


class Steps(TrainerCallback):
    """Hands TRL's steps to the session, and the session's wishes to TRL."""

    def __init__(self, session: Session, moves: TrlMoves, engine: PeftEngine) -> None:
        self._session, self._moves, self._engine = session, moves, engine

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Dropout follows from the step, as everywhere: a resumed step repeats it."""
        session = self._session
        session.work()
        torch.manual_seed(session.course.dropout_seed(session.progress.step))

    def on_substep_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Between micro-batches."""
        self._session.reporter.beat()

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **_: Any,
    ) -> None:
        """After each step: the session reports, measures and saves it, and looks at its orders."""
        if logs is None or "loss" not in logs:
            return
        session = self._session
        self._moves.norm = float(logs.get("grad_norm", 0.0))
        session.finish(sums_of(session, logs))
        if not session.attempt.ended:
            session.obey()
        control.should_training_stop = session.attempt.ended
        self._engine.on(session.adapter)


def sums_of(session: Session, logs: dict[str, float]) -> Sums:
    """A step as TRL logged it."""
    parts = session.course.rows(session.progress.step)
    examples = sum(len(part) for part in parts)
    rows = [row for part in parts for at in part for row in session.data.example(at)]
    tokens = sum(row.labelled for row in rows)
    loss = float(logs["loss"])
    if session.spec.method in ("sft", "cpt"):
        correct = round(float(logs.get("mean_token_accuracy", 0.0)) * tokens)
        return Sums(loss * tokens, tokens, correct, examples)
    extra = {name: float(value) * examples for name, value in logs.items() if _measured(name, value)}
    return Sums(loss * examples, tokens, 0, examples, extra, by_example=True)


def _measured(name: str, value: Any) -> bool:
    kept = "/" in name or name in ("kl", "nll_loss", "log_odds_ratio", "log_odds_chosen")
    return kept and isinstance(value, int | float) and math.isfinite(value)


class Trl:
    """See ``Backend``."""

    def run(self, attempt: Attempt) -> None:
        """See ``Backend.run``."""
        if attempt.spec.quantization != "none":
            raise PlatformError(
                "TRL trains here on the base as it is, not in 4 bits.",
                fix="Choose the native trainer, or no quantization.",
                code="option_unsupported",
            )
        base = locate_base(attempt.spec.base)
        renderer = load_renderer(base)
        engine = PeftEngine.load(base)
        train(attempt, engine, renderer, base)


def train(attempt: Attempt, engine: PeftEngine, renderer: Renderer, base: Path) -> None:
    """Train one attempt on a loaded base model, whose files are at ``base``."""
    moves: list[TrlMoves] = []

    def optimizer(adapter: Any, schedule: Schedule) -> TrlMoves:
        moves.append(TrlMoves(adapter, schedule))
        return moves[0]

    transformers.utils.logging.set_verbosity_error()
    session = Session(attempt, engine, renderer, Makers(aim_of, EvenCourse, optimizer))
    model, course, schedule = engine.peft, session.course, attempt.spec.schedule
    assert model is not None and isinstance(course, EvenCourse)
    with tempfile.TemporaryDirectory(prefix="graftwork-") as folder:
        steps = Steps(session, moves[0], engine)
        # made before a checkpoint is poured in: TRL copies the adapter as the reference
        trainer = make_trainer(
            attempt.spec,
            model,
            AutoTokenizer.from_pretrained(base),
            Path(folder),
            -(-schedule.batch_size // course.accumulation),
            steps,
        )
        trainer.args.gradient_accumulation_steps = course.accumulation
        trainer.accelerator.gradient_accumulation_steps = course.accumulation
        session.start()
        session.obey()
        engine.on(session.adapter)
        first = session.progress.step
        if attempt.ended:
            return
        adamw = moves[0].over(model)
        rates = torch.optim.lr_scheduler.LambdaLR(
            adamw,
            lambda step: (
                learning_rate(schedule, first + step, course.total_steps) / (schedule.learning_rate or 1.0)
            ),
        )
        batches = [part for step in range(first, course.total_steps) for part in course.rows(step)]
        feed(trainer, features_of(attempt.spec.method, session.data), batches, (adamw, rates))
        trainer.args.max_steps = course.total_steps - first
        trainer.train()
    session.close()
