"""A tool at work: what it says goes into the run folder, what is ordered goes to it."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from graftwork.core.errors import PlatformError
from graftwork.core.states import Outcome
from graftwork.runs.documents import ADAPTER_FILES, Metrics, Result
from graftwork.training.attempt import Attempt, Order
from graftwork.training.backends.command.bring_back import bring_back
from graftwork.training.backends.command.events import Lines, Told, parse
from graftwork.training.backends.command.process import Process
from graftwork.training.backends.command.recipe import Place
from graftwork.training.checkpoints import STATE, Progress, State, fingerprint
from graftwork.training.reporting import Reporter

TOOL = "tool"
"""Folder of a checkpoint that holds the tool's own, from which only the tool can go on."""
LEFT_OUT = (".*", "tokenizer*", "chat_template*", "README.md", "training_args.bin")
"""What a tool saves beside its checkpoint and needs not to go on."""
SAVING = 300.0
"""Seconds a tool gets to finish its step and save, once it was asked to stop."""
LOADING = 30.0
"""Seconds to save by, before a deadline, that are assumed before any was seen."""


class Watch:
    """One attempt by a tool, as seen from its events.

    Args:
        attempt: the open run folder.
        place: where the tool works.
        reporter: tells what is seen.
        progress: where the run is on its curve.
        tokens: trained tokens of the whole run: of all rows, in all epochs.
    """

    def __init__(
        self, attempt: Attempt, place: Place, reporter: Reporter, progress: Progress, tokens: int
    ) -> None:
        self.attempt, self.place, self.reporter = attempt, place, reporter
        self.progress, self.tokens = progress, tokens
        self.saved = progress
        """Where the newest checkpoint is."""
        self.finished = progress.step >= place.total_steps
        self._events, self._log = Lines(place.events), Lines(place.log)
        self._stopping = False
        self._slowest = 0.0
        self._seen = attempt.clocks.monotonic()
        reporter.at(progress.step, progress.tokens)

    def look(self) -> None:
        """Take in what is new.

        Raises:
            TrainingError: it brought something that is not an adapter as asked for.
        """
        for line in self._log.new():
            self.attempt.writer.log(line.decode(errors="replace") + "\n")
        for line in self._events.new():
            told = parse(line)
            match told.event:
                case "step":
                    self._step(told)
                case "saved":
                    self._save(told)
                case "end":
                    self.finished = self.saved.step == told.step and not self._stopping
                    self.finished |= told.step >= self.place.total_steps
        self.reporter.beat()

    def obey(self, process: Process) -> None:
        """Do what is ordered; most often nothing."""
        order = self.attempt.orders.now(margin=2 * self._slowest + LOADING)
        if order.act == "leave":
            self.attempt.ended = True
        elif order.act == "cancel":
            process.kill()
            self.reporter.message(f"Cancelled at step {self.progress.step} of {self.place.total_steps}.")
            self._end(Outcome.CANCELLED, self.progress)
        elif order.act == "pause":
            self._pause(process, order)

    def _pause(self, process: Process, order: Order) -> None:
        self._stopping = True
        process.ask_to_stop()
        limit = self.attempt.clocks.monotonic() + SAVING
        while not process.wait(0.2) and self.attempt.clocks.monotonic() < limit:
            self.look()
        process.kill()
        self.look()
        if not self.finished:
            self.reporter.message(
                f"Paused at step {self.saved.step} of {self.place.total_steps}: {order.reason}.",
                code=order.reason,
            )
            self._end(Outcome.PAUSED, self.saved, order.reason)

    def _end(self, outcome: Outcome, at: Progress, reason: str | None = None) -> None:
        self.attempt.end(
            Result(
                outcome=outcome,
                reason=reason,
                step=at.step,
                total_steps=self.place.total_steps,
                tokens=at.tokens,
                seconds=self.attempt.seconds,
                train_loss=at.train_loss,
            )
        )

    def _step(self, told: Told) -> None:
        now = self.attempt.clocks.monotonic()
        self._slowest, self._seen = max(self._slowest, now - self._seen), now
        self.reporter.phase("training")
        if told.loss is None:
            return
        # A tool does not say which rows a step had: tokens are counted by steps, and are exact at the end.
        tokens = round(self.tokens * min(1.0, told.step / self.place.total_steps))
        self.progress = self.progress.advance(
            step=told.step, tokens=tokens, train_loss=told.loss, metrics={"train_loss": told.loss}
        )
        self.reporter.record(
            Metrics(
                at=self.attempt.clocks.now(),
                step=told.step,
                epoch=told.epoch,
                loss=told.loss,
                lr=told.lr or 0.0,
                grad_norm=told.grad_norm or 0.0,
                tokens=tokens,
                tokens_per_s=0.0,
                memory_mb=told.memory_mb,
            )
        )

    def _save(self, told: Told) -> None:
        self.reporter.phase("saving")
        spec, source = self.attempt.spec, Path(told.path)
        kept = self.place.kept_at(told.step)
        bring_back(source, kept, spec.lora, spec.base, self.place.targets)
        with tempfile.TemporaryDirectory(prefix="graftwork-") as name:
            folder = Path(name)
            shutil.copytree(kept, folder, dirs_exist_ok=True)
            shutil.copytree(source, folder / TOOL, ignore=shutil.ignore_patterns(*LEFT_OUT))
            at = self.progress.advance(step=told.step)
            (folder / STATE).write_bytes(State(spec=fingerprint(spec), progress=at).to_bytes())
            self.attempt.writer.checkpoint(
                told.step,
                folder,
                at=self.attempt.clocks.now(),
                metrics=at.metrics,
                tokens=at.tokens,
                best=spec.valid is None,
            )
        self.saved = at
        self.reporter.phase("training")


def resume(attempt: Attempt, place: Place, reporter: Reporter) -> tuple[Progress, Path | None]:
    """The furthest checkpoint that a tool can go on from, unpacked where it looks for it; else the start."""
    found = sorted(
        attempt.reader.checkpoints(attempt.fence), key=lambda pair: (pair[1].step, pair[0]), reverse=True
    )
    for owner, manifest in found:
        folder = place.work / f"restored-{owner}-{manifest.step}"
        try:
            folder.mkdir()
            attempt.reader.fetch(manifest.dir, manifest.files, folder)
            state = State.model_validate_json((folder / STATE).read_bytes())
            if state.spec != fingerprint(attempt.spec) or not (folder / TOOL).is_dir():
                raise PlatformError("It is of another run, or another trainer.", code="checkpoint_unusable")
        except (OSError, ValueError, PlatformError) as error:
            reporter.message(f"Passed over a checkpoint: {error}", "warn", "checkpoint_unusable")
            continue
        checkpoint = place.out / f"checkpoint-{manifest.step}"
        shutil.copytree(folder / TOOL, checkpoint)
        kept = place.kept_at(manifest.step)
        kept.mkdir(parents=True)
        for name in ADAPTER_FILES:
            shutil.copyfile(folder / name, kept / name)
        reporter.message(f"Resumed at step {state.progress.step} from attempt {owner}.")
        return state.progress, checkpoint
    return Progress(), None
