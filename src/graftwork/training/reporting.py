"""What a session tells the world: metrics, messages and heartbeats, none more often than it is read."""

from __future__ import annotations

from typing import Literal

from graftwork.core.specs import Schedule
from graftwork.runs.documents import Heartbeat, Message, Metrics, RunPhase
from graftwork.training.attempt import Attempt
from graftwork.training.dataset import Dataset
from graftwork.training.engine import Sums
from graftwork.training.objectives import measures

BEAT_SECONDS = 1.0


class Reporter:
    """Heartbeats, events and log lines of one attempt."""

    def __init__(self, attempt: Attempt, total_steps: int) -> None:
        self._attempt = attempt
        self._total = total_steps
        self._beaten = float("-inf")
        self._phase: RunPhase = "loading"
        self._step = self._tokens = 0
        self._loss: float | None = None
        self._first: tuple[int, int, float] | None = None

    def at(self, step: int, tokens: int) -> None:
        """The attempt begins (or goes on) here: speed is measured from now."""
        self._step, self._tokens = step, tokens
        self._first = (step, tokens, self._attempt.clocks.monotonic())

    def phase(self, phase: RunPhase) -> None:
        """Enter a phase; a heartbeat tells it at once."""
        if phase != self._phase or self._beaten < 0:
            self._phase = phase
            self.beat(force=True)

    def beat(self, force: bool = False) -> None:
        """A heartbeat, when the last is a second old."""
        now = self._attempt.clocks.monotonic()
        if not force and now - self._beaten < BEAT_SECONDS:
            return
        self._beaten = now
        speed, pace = self._speed(), self._pace()
        self._attempt.writer.heartbeat(
            Heartbeat(
                step=self._step,
                total_steps=self._total,
                at=self._attempt.clocks.now(),
                phase=self._phase,
                tokens=self._tokens,
                loss=self._loss,
                tokens_per_s=speed or None,
                eta_s=pace * (self._total - self._step) if pace is not None else None,
            )
        )

    def message(
        self, text: str, level: Literal["info", "warn", "error"] = "info", code: str | None = None
    ) -> None:
        """An event for the owner, and a line of the log."""
        now = self._attempt.clocks.now()
        self._attempt.writer.emit(Message(at=now, level=level, message=text, code=code))
        self._attempt.writer.log(f"{level}: {text}\n")

    def metrics(
        self,
        step: int,
        tokens: int,
        *,
        epoch: float,
        train: Sums,
        valid: Sums | None,
        rate: float,
        gradient_norm: float,
        memory_mb: float,
    ) -> None:
        """One optimizer step; ``valid`` when it ended with an evaluation."""
        self.record(
            Metrics(
                at=self._attempt.clocks.now(),
                step=step,
                epoch=epoch,
                loss=train.mean_loss,
                lr=rate,
                grad_norm=gradient_norm,
                tokens=tokens,
                tokens_per_s=0.0,
                memory_mb=memory_mb,
                train_accuracy=token_accuracy(train),
                valid_loss=valid.mean_loss if valid else None,
                valid_accuracy=token_accuracy(valid),
                full_valid_loss=valid.mean_loss if valid else None,
                extra=measures(train) | (measures(valid, "eval_") if valid else {}),
            )
        )

    def record(self, metrics: Metrics) -> None:
        """One optimizer step, whoever measured it; the speed is filled in here."""
        self._step, self._tokens, self._loss = metrics.step, metrics.tokens, metrics.loss
        self._attempt.writer.emit(metrics.model_copy(update={"tokens_per_s": self._speed()}))
        self.beat()

    def _speed(self) -> float:
        """Trained tokens a second in this attempt, evaluations and checkpoints included."""
        elapsed = self._elapsed()
        return (self._tokens - self._first[1]) / elapsed if self._first and elapsed else 0.0

    def _pace(self) -> float | None:
        """Seconds a step in this attempt; None before the first."""
        done = self._step - self._first[0] if self._first else 0
        return self._elapsed() / done if done else None

    def _elapsed(self) -> float:
        return self._attempt.clocks.monotonic() - self._first[2] if self._first else 0.0


def token_accuracy(sums: Sums | None) -> float | None:
    """Share of right first choices; None of pairs, where half of the tokens should not be chosen."""
    return None if sums is None or sums.by_example else sums.accuracy


def introduce(reporter: Reporter, data: Dataset, schedule: Schedule, total_steps: int) -> None:
    """Tell the owner what is about to be trained, why so, and what was wrong with the rows."""
    rows = "rows" if data.per_example == 1 else "pairs"
    reporter.message(
        f"Training on {data.examples} {rows} ({sum(data.lengths)} tokens, {data.labelled} of them with loss) "
        f"for {schedule.n_epochs} epochs: {total_steps} steps of up to {schedule.batch_size} {rows}."
    )
    for name, why in schedule.explained.items():
        reporter.message(f"{name}: {why}", code="explained")
    if data.cut:
        reporter.message(
            f"{data.cut} rows are longer than {schedule.max_length} tokens and lose their end.",
            "warn",
            "rows_cut",
        )
    if data.skipped:
        reporter.message(f"{data.skipped} rows carry no loss and are left out.", "warn", "rows_skipped")
    if data.doubtful:
        reporter.message(
            f"In {data.doubtful} of the first rows the words that carry loss are not the answers as written: "
            "the chat template changes them. Look at the preview of the data set.",
            "warn",
            "labels_doubtful",
        )
