"""Trainers other than the native one: ``RunSpec.trainer`` names it, ``backend_of`` finds it.

A backend takes a whole attempt: it reads the run folder, trains by whatever means it has, obeys
``attempt.orders`` between steps (or as often as its tool lets it), reports through
``training.reporting.Reporter``, and leaves checkpoints, the adapter and a result. One file a backend, named
as the trainer is. A backend's own package is imported when it is asked for, never before.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from typing import Protocol

from graftwork.core.errors import PlatformError
from graftwork.core.specs import RunSpec, TrainerName
from graftwork.models.trainers import COMMANDS
from graftwork.training.attempt import Attempt


class Backend(Protocol):
    """Trains one run at a time, from its folder to its result."""

    def run(self, attempt: Attempt) -> None:
        """Execute the attempt until it has a result, or until another attempt has the run.

        Blocks. On return ``attempt.ended`` is true.

        Raises:
            GraftworkError: the attempt failed; the caller writes the result (``UserError``: the customer's
                to mend). Code ``trainer_not_installed`` says what the machine lacks.
        """
        ...


def _command(name: TrainerName) -> Callable[[], Backend]:
    """A tool's recipe lies in the module of its name."""

    def opened() -> Backend:
        from graftwork.training.backends.command import CommandBackend

        module = importlib.import_module(f"graftwork.training.backends.{name}")
        return CommandBackend(module.RECIPE)

    return opened


def _trl() -> Backend:
    try:
        from graftwork.training.backends.trl import Trl
    except ImportError as error:
        raise not_installed("trl", "Install it: pip install 'trl>=1.16' datasets.") from error
    return Trl()


BACKENDS: dict[TrainerName, Callable[[], Backend]] = {
    "trl": _trl,
    **{name: _command(name) for name in COMMANDS},
}
"""How each trainer is opened. Opening imports its package and may raise ``not_installed``."""


def backend_of(
    spec: RunSpec, known: Mapping[TrainerName, Callable[[], Backend]] = BACKENDS
) -> Backend | None:
    """The backend of the run's trainer; None: the native trainer's, which takes several runs at once.

    Raises:
        PlatformError: ``trainer_not_installed``, this machine cannot run it.
    """
    if spec.trainer == "native":
        return None
    opened = known.get(spec.trainer)
    if opened is None:
        raise not_installed(spec.trainer, "Choose the native trainer.")
    return opened()


def not_installed(trainer: str, fix: str) -> PlatformError:
    """The error of a trainer that this machine lacks; ``fix`` says what to install or configure."""
    return PlatformError(
        f"This machine cannot train with {trainer}: it is not installed.",
        fix=fix,
        code="trainer_not_installed",
    )
