"""One run on an engine: its own data order, optimizer, schedule, evaluation, checkpoints and end.

A session knows nothing of other sessions. Its randomness follows from its seed and step alone, so an adapter
trained in company equals the adapter trained alone, and a resumed run equals an unbroken one.

What counts as trained tokens: every token of every row of every step on the curve, labelled or not, without
padding; a row counts once an epoch, as OpenAI bills. Steps that a lost attempt took and a later one repeats
are on the curve once. Validation rows do not count.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import torch

from graftwork.core.errors import InvalidRequest
from graftwork.core.specs import RunSpec, Schedule
from graftwork.core.states import Outcome
from graftwork.data.rendering import Renderer
from graftwork.runs.documents import AdapterFiles, Result
from graftwork.training.attempt import Attempt
from graftwork.training.batching import Course
from graftwork.training.checkpoints import Progress, moments, newest, pour, write_state
from graftwork.training.dataset import Dataset, load_datasets
from graftwork.training.engine import Adapter, Engine, Rows, Sums, Work
from graftwork.training.export import write_adapter
from graftwork.training.machine import memory_mb
from graftwork.training.objectives import Aim, aim_of, measures
from graftwork.training.optimizer import Moves, Optimizer
from graftwork.training.probes import Prober
from graftwork.training.reporting import Reporter, introduce, token_accuracy
from graftwork.training.schedule import learning_rate
from graftwork.training.start import begin_from


def _optimizer(adapter: Adapter, schedule: Schedule) -> Moves:
    return Optimizer(adapter, schedule.weight_decay, schedule.max_grad_norm, schedule.lora_plus)


@dataclass(frozen=True, slots=True)
class Makers:
    """How a session gets its parts."""

    aim: Callable[[RunSpec, Engine, Dataset, Dataset | None], Aim] = aim_of
    course: Callable[[Sequence[int], Schedule, int], Course] = Course
    """Of the examples' lengths: which make up which step."""
    optimizer: Callable[[Adapter, Schedule], Moves] = _optimizer


NATIVE = Makers()


class Session:
    """A run in training. Call ``obey``, then ``work``, then ``finish``, until ``attempt.ended``.

    Args:
        attempt: the open run folder.
        engine: has the run's base model.
        renderer: of the same base model.
        makers: the parts that another trainer brings of its own.

    Raises:
        InvalidData: the run's rows cannot be trained on.
        InvalidRequest: its adapter does not fit the base model.
    """

    def __init__(self, attempt: Attempt, engine: Engine, renderer: Renderer, makers: Makers = NATIVE) -> None:
        self.attempt, self.engine = attempt, engine
        self.spec, schedule = attempt.spec, attempt.spec.schedule
        self.data, valid = load_datasets(attempt.reader, self.spec, renderer)
        self.aim = makers.aim(self.spec, engine, self.data, valid)
        self.evaluator = self.aim.held
        self.course = makers.course(self.data.lengths, schedule, self.spec.seed)
        self.total_steps = self.course.total_steps
        self.reporter = Reporter(attempt, self.total_steps)
        if schedule.recompute:
            engine.save_memory()
        self.adapter = engine.add(self.spec.lora, self.spec.seed)
        with ExitStack() as undo:  # the engine is others' too: whoever does not come aboard leaves nothing
            undo.callback(engine.remove, self.adapter)
            if self.spec.start is not None:
                begin_from(attempt.reader, self.spec, self.adapter)
            self.optimizer = makers.optimizer(self.adapter, schedule)
            self.prober = Prober(engine, (valid or self.data).rows, self.spec.quantization)
            undo.pop_all()
        self.progress = Progress()
        self.best: torch.Tensor | None = None
        self._slowest_step = self._slowest_save = 0.0
        self._worked = attempt.clocks.monotonic()

    def start(self) -> None:
        """Resume from the newest checkpoint, or introduce the run and measure the base model.

        A reference is the base, or the adapter that the run starts from (as in TRL); that one is here only
        before a checkpoint is poured in.
        """
        self.aim.refer(self.adapter if self.spec.start else None, self.reporter.beat)
        if not self._resume():
            introduce(self.reporter, self.data, self.spec.schedule, self.total_steps)
            if self.evaluator:
                self.reporter.phase("evaluating")
                base = self.evaluator.measure(None, self.reporter.beat)
                self.progress = self.progress.advance(
                    base_valid_loss=base.mean_loss, measured=measures(base, "base_")
                )
        self.reporter.at(self.progress.step, self.progress.tokens)
        self.reporter.phase("training")

    @property
    def saving(self) -> float:
        """Seconds that saving takes, by the slowest so far."""
        return self._slowest_save

    def obey(self, others: float = 0.0) -> None:
        """Do what the control plane, the clock or a signal demands; most often nothing.

        ``others``: seconds that the runs in company need to save; all have the same deadline.
        """
        order = self.attempt.orders.now(margin=2 * (self._slowest_step + self._slowest_save + others))
        if order.act == "leave":
            self.attempt.ended = True
        elif order.act == "cancel":
            self.reporter.message(f"Cancelled at step {self.progress.step} of {self.total_steps}.")
            self._end(Outcome.CANCELLED)
        elif order.act == "pause":
            if self.progress.step:
                self._save()
            self.reporter.message(
                f"Paused at step {self.progress.step} of {self.total_steps}: {order.reason}.",
                code=order.reason,
            )
            self._end(Outcome.PAUSED, reason=order.reason)
        elif self.progress.step >= self.total_steps or self._stopped_early():
            self._conclude()  # resumed from the last checkpoint of a run that died before its result

    def work(self) -> Work:
        """The next step's rows."""
        self._worked = self.attempt.clocks.monotonic()
        step = self.progress.step
        parts = self.course.rows(step)
        rows: list[Rows] = [[row for at in part for row in self.data.example(at)] for part in parts]
        return Work(
            self.adapter,
            rows,
            self.course.dropout_seed(step),
            self.aim.objective([at for part in parts for at in part]),
            self.spec.schedule.neftune_alpha,
        )

    def finish(self, sums: Sums) -> None:
        """Take the step that ``work`` began: clip, move, report; evaluate, save and end when due.

        Raises:
            InvalidRequest: ``loss_not_finite``.
        """
        norm = self.optimizer.gradient_norm()
        if not (math.isfinite(sums.loss) and math.isfinite(norm)):
            raise _diverged(self.progress.step + 1)
        rate = learning_rate(self.spec.schedule, self.progress.step, self.total_steps)
        self.optimizer.step(rate)
        self.progress = self.progress.advance(
            step=self.progress.step + 1,
            tokens=self.progress.tokens + self.course.tokens(self.progress.step),
            train_loss=sums.mean_loss,
            metrics=_named("train", sums),
        )
        self._slowest_step = max(self._slowest_step, self.attempt.clocks.monotonic() - self._worked)
        valid = self._evaluate() if self._due(self.spec.schedule.eval_every) else None
        self.reporter.metrics(
            self.progress.step,
            self.progress.tokens,
            epoch=self.progress.step / self.course.steps_per_epoch,
            train=sums,
            valid=valid,
            rate=rate,
            gradient_norm=norm,
            memory_mb=memory_mb(self.adapter.weights.device),
        )
        if self.progress.step == self.total_steps or self._stopped_early():
            self._conclude()
        elif self._due(self.spec.schedule.checkpoint_every):
            self._save()
            self.reporter.phase("training")

    def rest(self) -> None:
        """Until the next step: move out of the device's memory what only a step needs."""
        if isinstance(self.optimizer, Optimizer):
            self.optimizer.park()

    def close(self) -> None:
        """Free the adapter; the run folder stays."""
        self.engine.remove(self.adapter)

    def _resume(self) -> bool:
        saved, refused = newest(self.attempt.reader, self.spec, self.attempt.fence)
        for error in refused:
            self.reporter.message(f"Passed over a checkpoint: {error.message}", "warn", error.code)
        if saved is None:
            return False
        pour(saved.adapter, self.adapter, self.adapter.weights)
        self.optimizer.restore(moments(saved, self.adapter))
        self.progress = saved.progress
        if self.progress.best_step is not None:
            self.best = self.adapter.weights.clone()
            if saved.best is not None:
                pour(saved.best, self.adapter, self.best)
        self.reporter.message(f"Resumed at step {self.progress.step} from attempt {saved.fence}.")
        return True

    def _evaluate(self) -> Sums | None:
        """Measure the adapter on the validation set and remember it if it is the best so far."""
        if self.evaluator is None:
            return None
        self.reporter.phase("evaluating")
        valid = self.evaluator.measure(self.adapter, self.reporter.beat)
        if not math.isfinite(valid.loss):
            raise _diverged(self.progress.step)
        loss, better = (
            valid.mean_loss,
            self.progress.best_loss is None or valid.mean_loss < self.progress.best_loss,
        )
        if better:
            self.best = self.adapter.weights.clone()
            measured = self.progress.measured | measures(valid, "eval_")
            self.progress = self.progress.advance(
                best_step=self.progress.step, best_loss=loss, worse=0, measured=measured
            )
        else:
            self.progress = self.progress.advance(worse=self.progress.worse + 1)
        scores = _named("valid", valid)
        self.progress = self.progress.advance(
            metrics=self.progress.metrics
            | scores
            | {f"full_{key}": scores[key] for key in scores}
            | measures(valid, "eval_")
        )
        self.reporter.phase("training")
        return valid

    def _save(self) -> None:
        began = self.attempt.clocks.monotonic()
        self.reporter.phase("saving")
        with tempfile.TemporaryDirectory(prefix="graftwork-") as folder:
            write_state(
                Path(folder), self.spec, self.progress, self.adapter, self.best, self.optimizer.state()
            )
            self.attempt.writer.checkpoint(
                self.progress.step,
                Path(folder),
                at=self.attempt.clocks.now(),
                metrics=self.progress.metrics,
                tokens=self.progress.tokens,
                best=self.evaluator is None or self.progress.best_step == self.progress.step,
                probes=self.prober.take(self.adapter),
            )
        self._slowest_save = max(self._slowest_save, self.attempt.clocks.monotonic() - began)

    def _conclude(self) -> None:
        """Save the last step, then hand out the best one."""
        if self._stopped_early() and self.progress.step < self.total_steps:
            self.reporter.message(
                f"Stopped early at step {self.progress.step}: no better validation loss than "
                f"{self.progress.best_loss:.4f} (step {self.progress.best_step}) "
                f"in {self.progress.worse} evaluations.",
                code="stopped_early",
            )
        self._save()
        if self.best is not None:
            self.adapter.weights.copy_(self.best)
        with tempfile.TemporaryDirectory(prefix="graftwork-") as folder:
            write_adapter(Path(folder), self.adapter, self.spec.lora, self.spec.base)
            files = self.attempt.writer.adapter(Path(folder))
        self.reporter.message(f"Trained {self.progress.tokens} tokens in {self.progress.step} steps.")
        self._end(Outcome.SUCCEEDED, files=files)

    def _end(self, outcome: Outcome, *, reason: str | None = None, files: AdapterFiles | None = None) -> None:
        progress = self.progress
        self.reporter.phase("done")
        self.attempt.end(
            Result(
                outcome=outcome,
                reason=reason,
                step=progress.step,
                total_steps=self.total_steps,
                tokens=progress.tokens,
                seconds=self.attempt.seconds,
                adapter=files,
                best_step=progress.best_step,
                train_loss=progress.train_loss,
                valid_loss=progress.best_loss,
                base_valid_loss=progress.base_valid_loss,
                valid_tokens=self.evaluator.tokens if self.evaluator else 0,
                extra=progress.measured,
                probes=self.prober.take(self.adapter) if files else [],
                machine=dict(self.engine.describe()),
            )
        )

    def _due(self, every: int) -> bool:
        return self.progress.step % every == 0 or self.progress.step == self.total_steps

    def _stopped_early(self) -> bool:
        patience = self.spec.schedule.early_stopping
        return patience is not None and self.progress.worse >= patience


def _named(which: str, sums: Sums) -> dict[str, float]:
    """Loss and accuracy under OpenAI's names for a checkpoint's metrics."""
    accuracy = token_accuracy(sums)
    found = {f"{which}_loss": sums.mean_loss}
    return found if accuracy is None else found | {f"{which}_mean_token_accuracy": accuracy}


def _diverged(step: int) -> InvalidRequest:
    return InvalidRequest(
        f"The loss or its gradient is not a number at step {step}: training has diverged.",
        fix="Lower the learning_rate_multiplier.",
        code="loss_not_finite",
        param="learning_rate_multiplier",
    )
