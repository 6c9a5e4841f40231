"""One attempt by a tool: laid out, started, watched, stopped when ordered, and brought home."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from graftwork.core.errors import PlatformError, TrainingError
from graftwork.core.specs import RunSpec
from graftwork.models.trainers import ABILITIES, python_of, refuse, variable_of
from graftwork.training.attempt import Attempt
from graftwork.training.backends.command.process import Process, environment_of, tail
from graftwork.training.backends.command.recipe import RUNNERS, Place, Recipe, write_rows
from graftwork.training.backends.command.verdict import conclude
from graftwork.training.backends.command.watch import Watch, resume
from graftwork.training.base import load_renderer, locate_base
from graftwork.training.batching import Course
from graftwork.training.checkpoints import Progress
from graftwork.training.dataset import load_datasets
from graftwork.training.lora import linear_modules, resolve_targets
from graftwork.training.reporting import Reporter, introduce

POLL_SECONDS = 0.2


class CommandBackend:
    """See ``Backend``.

    Args:
        recipe: the tool.
        environment: where the tool's Python is named, and what it inherits of.
        sleep: waits between two looks.
        devices: what a tool's Python computes on, and how many of them.
    """

    def __init__(
        self,
        recipe: Recipe,
        environment: Mapping[str, str] = os.environ,
        sleep: Callable[[float], None] = time.sleep,
        devices: Callable[[str], tuple[str, int]] | None = None,
    ) -> None:
        self._recipe, self._environment, self._sleep = recipe, environment, sleep
        self._devices = devices or devices_of

    def run(self, attempt: Attempt) -> None:
        """See ``Backend.run``."""
        spec = attempt.spec
        refuse(spec)
        python = self._python(spec)
        base = locate_base(spec.base)
        train, valid = load_datasets(attempt.reader, spec, load_renderer(base))
        course = Course(train.lengths, spec.schedule, spec.seed)
        with tempfile.TemporaryDirectory(prefix="graftwork-tool-") as folder:
            device, devices = self._devices(python)
            place = Place(
                work=Path(folder),
                base=base,
                targets=targets_of(base, spec),
                longest=max(train.lengths),
                total_steps=course.total_steps,
                device=device,
                devices=1 if self._recipe.single else devices,
            )
            write_rows(place.train, train.rows)
            reporter = Reporter(attempt, course.total_steps)
            progress, checkpoint = Progress(), None
            if ABILITIES[spec.trainer].resumes:
                progress, checkpoint = resume(attempt, place, reporter)
            if checkpoint is None:
                introduce(reporter, train, spec.schedule, course.total_steps)
            watch = Watch(attempt, place, reporter, progress, sum(train.lengths) * spec.schedule.n_epochs)
            if progress.step < course.total_steps:
                self._train(watch, replace(place, resume=checkpoint), python)
            if not attempt.ended:
                conclude(watch, valid, train)

    def _train(self, watch: Watch, place: Place, python: str) -> None:
        """Until the tool has ended by itself, or has been ended."""
        spec = watch.attempt.spec
        place.config.write_text(json.dumps(self._recipe.config(spec, place), indent=2))
        watch.reporter.message(f"Training with {self._recipe.name} on {place.devices} × {place.device}.")
        place.events.touch()
        more = {
            **self._recipe.environment,
            "PYTHONPATH": str(RUNNERS),
            "GRAFTWORK_EVENTS": str(place.events),
        }
        process = Process(
            self._recipe.command(spec, place, python),
            place.work,
            place.log,
            environment_of(self._environment, more),
        )
        try:
            while process.ended() is None and not watch.attempt.ended:
                watch.look()
                watch.obey(process)
                self._sleep(POLL_SECONDS)
        finally:
            process.kill()
        if not watch.attempt.ended:
            watch.look()
            _check_end(watch, process.ended(), place)

    def _python(self, spec: RunSpec) -> str:
        found = python_of(spec.trainer, self._environment)
        if found is None or shutil.which(found) is None:
            raise PlatformError(
                f"This machine cannot train with {spec.trainer}: "
                + (f"there is no Python at {found}." if found else "it is not configured."),
                fix=f"Install {spec.trainer} in an environment of its own and set "
                f"{variable_of(spec.trainer)} to the path of that environment's python.",
                code="trainer_not_installed",
            )
        return found


def targets_of(base: Path, spec: RunSpec) -> tuple[str, ...]:
    """Names of the modules to adapt, as the native trainer would choose them; no weight is loaded.

    Raises:
        InvalidRequest: ``unknown_target``.
    """
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(base, local_files_only=True))
    return resolve_targets(spec.lora, list(linear_modules(model, model.get_output_embeddings())))


def devices_of(python: str) -> tuple[str, int]:
    """What the tool's Python can compute on, and how many of them.

    Raises:
        PlatformError: ``trainer_not_installed``, its environment has no torch that works.
    """
    asked = subprocess.run(
        [python, str(RUNNERS / "graft_devices.py")],
        env=environment_of(os.environ, {}),
        capture_output=True,
        text=True,
        check=False,
    )
    try:
        kind, count = json.loads(asked.stdout.splitlines()[-1])
        return str(kind), max(1, int(count))
    except (ValueError, IndexError) as error:
        raise PlatformError(
            f"The trainer's Python does not work: {asked.stderr.strip()[-300:]}",
            fix="Install the trainer's package, with torch, in that environment.",
            code="trainer_not_installed",
        ) from error


def _check_end(watch: Watch, code: int | None, place: Place) -> None:
    """What an end that nobody asked for means.

    Raises:
        TrainingError: ``trainer_failed``, or ``out_of_memory``.
    """
    if watch.finished:
        return
    text = tail(place.log)
    last = next((line for line in reversed(text.splitlines()) if line.strip()), "nothing was said")
    if "OutOfMemoryError" in text or "out of memory" in text.lower():
        raise TrainingError(
            "The device has too little memory for one micro-batch.",
            fix="Use more accumulation, a smaller max_length or rank, or a larger GPU.",
            code="out_of_memory",
        )
    how = f"was killed by signal {-code}" if code is not None and code < 0 else f"ended with exit code {code}"
    raise TrainingError(
        f"The trainer {how} after {watch.progress.step} of {place.total_steps} steps: {last}",
        fix="The whole of what it said is in the run's log.",
        code="trainer_failed",
    )
