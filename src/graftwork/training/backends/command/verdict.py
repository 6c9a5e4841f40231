"""The end of a run by a tool: our own engine measures what came back, and the best of it is the result."""

from __future__ import annotations

import math
import tempfile
from pathlib import Path

from safetensors.torch import load_file

from graftwork.core.errors import PlatformError, TrainingError
from graftwork.core.states import Outcome
from graftwork.runs.documents import Result
from graftwork.training.backends.command.bring_back import differs
from graftwork.training.backends.command.watch import Watch
from graftwork.training.checkpoints import pour
from graftwork.training.dataset import Dataset
from graftwork.training.engine import Adapter
from graftwork.training.evaluation import Evaluator
from graftwork.training.export import WEIGHTS, write_adapter
from graftwork.training.probes import Prober
from graftwork.training.solo import SoloEngine


def conclude(watch: Watch, valid: Dataset | None, train: Dataset) -> None:
    """Measure each step that was kept on the held-out rows, and end the attempt with the best adapter.

    Without held-out rows it is the last step's.

    Raises:
        TrainingError: ``adapter_missing``; ``adapter_differs``, it does not fit the base model.
    """
    attempt, spec = watch.attempt, watch.attempt.spec
    watch.reporter.phase("evaluating")
    engine = SoloEngine.load(watch.place.base)
    adapter = engine.add(spec.lora, spec.seed)
    evaluator = Evaluator(engine, valid) if valid else None
    base_loss = evaluator.measure(None, watch.reporter.beat).mean_loss if evaluator else None
    step, loss = _best(watch, adapter, evaluator)
    _take(watch.place.kept_at(step), adapter)
    with tempfile.TemporaryDirectory(prefix="graftwork-") as folder:
        write_adapter(Path(folder), adapter, spec.lora, spec.base)
        files = attempt.writer.adapter(Path(folder))
    progress = watch.progress
    watch.reporter.message(f"Trained {progress.tokens} tokens in {progress.step} steps with {spec.trainer}.")
    watch.reporter.phase("done")
    attempt.end(
        Result(
            outcome=Outcome.SUCCEEDED,
            step=progress.step,
            total_steps=watch.place.total_steps,
            tokens=progress.tokens,
            seconds=attempt.seconds,
            adapter=files,
            best_step=step if evaluator else None,
            train_loss=progress.train_loss,
            valid_loss=loss,
            base_valid_loss=base_loss,
            valid_tokens=evaluator.tokens if evaluator else 0,
            probes=Prober(engine, (valid or train).rows).take(adapter),
            machine={**engine.describe(), "trainer": spec.trainer},
        )
    )


def _best(watch: Watch, adapter: Adapter, evaluator: Evaluator | None) -> tuple[int, float | None]:
    """Step with the lowest held-out loss, and that loss; the last one where nothing is held out."""
    steps = sorted(int(folder.name.rpartition("-")[2]) for folder in watch.place.kept.glob("*"))
    if not steps:
        raise TrainingError(
            "The trainer ended without a checkpoint.",
            fix="See the run's log; it can be tried again.",
            code="adapter_missing",
        )
    if evaluator is None:
        return steps[-1], None
    measured: list[tuple[float, int]] = []
    for step in steps:
        _take(watch.place.kept_at(step), adapter)
        loss = evaluator.measure(adapter, watch.reporter.beat).mean_loss
        watch.reporter.message(f"Held-out loss after step {step}: {loss:.4f}.", code="valid_loss")
        if math.isfinite(loss):
            measured.append((loss, step))
    if not measured:
        raise TrainingError(
            "The adapter's held-out loss is not a number.",
            fix="Lower the learning_rate_multiplier.",
            code="adapter_not_finite",
        )
    loss, step = min(measured)
    return step, loss


def _take(folder: Path, adapter: Adapter) -> None:
    tensors = load_file(folder / WEIGHTS)
    try:
        pour(tensors, adapter, adapter.weights)
    except PlatformError as error:
        raise differs("it does not fit the base model") from error
