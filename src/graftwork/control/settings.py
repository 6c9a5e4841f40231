"""The settings of one server. Whatever is not said has a default that is right for one machine."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from graftwork.billing import ModelPrice
from graftwork.control.reconcilers.base import Pace
from graftwork.control.reconcilers.jobs.context import Limits
from graftwork.control.reconcilers.placements import Patience
from graftwork.control.reconcilers.sweeper import Graces


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What a server is told at its start."""

    data: Path
    """Folder for everything that must last."""
    host: str = "127.0.0.1"
    port: int = 8000
    database: str = ""
    """SQLite or PostgreSQL URL; empty is a SQLite file in the data folder."""
    artifacts: str = ""
    """Folder or URL of blobs; empty is a folder in the data folder."""
    organization: str = "personal"
    """Name of the first organization; part of every ``ft:`` name."""
    project: str = "default"
    """Name of the first project."""
    slots: int = 1
    """Trainers that may run on this machine at a time."""
    price_per_hour: int = 0
    """Micro-dollars an hour of a trainer on this machine."""
    allow: tuple[str, ...] = ()
    """More base models: shell patterns of hub ids and of absolute folder paths."""
    warm: tuple[str, ...] = ("seedling",)
    """Base models whose engine is started with the server; others start at their first use."""
    prices: Mapping[str, ModelPrice] = field(default_factory=dict)
    """Prices by base model, in place of the list prices."""
    engine_options: Mapping[str, Any] = field(default_factory=dict)
    """Options of engines."""
    trainer: tuple[str, ...] = (sys.executable, "-m", "graftwork.training")
    """Command of the trainer; what it is to train is appended."""
    mlflow: str = ""
    """URL of an MLflow server that is told every step. What opens it comes from the environment:
    $MLFLOW_TRACKING_TOKEN, or $MLFLOW_TRACKING_USERNAME and $MLFLOW_TRACKING_PASSWORD."""
    tensorboard: Path | None = None
    """Folder for TensorBoard's event files."""
    wandb: Literal["", "online", "offline"] = ""
    """Whether Weights & Biases is told every step: its service, opened by $WANDB_API_KEY, or a folder
    ``wandb`` in the data folder."""
    agreement_bound: float | None = None
    """Largest difference between served and trained log-probabilities, in nats; None is 0.01 where both are
    computed on a CPU, and 0.3 where there is a GPU, whose engines compute in half precision."""
    pace: Pace = field(default_factory=Pace)
    limits: Limits = field(default_factory=Limits)
    patience: Patience = field(default_factory=Patience)
    graces: Graces = field(default_factory=Graces)

    @property
    def database_url(self) -> str:
        """The database, as the store opens it."""
        return self.database or f"sqlite:///{(self.data / 'graftwork.db').absolute()}"

    @property
    def artifacts_root(self) -> Path | str:
        """Where blobs are."""
        return self.artifacts or self.data / "artifacts"

    @property
    def bound(self) -> float:
        """The agreement bound that counts here."""
        if self.agreement_bound is not None:
            return self.agreement_bound
        return 0.3 if Path("/dev/nvidiactl").exists() else 0.01
