"""Sweeps on the wire."""

from __future__ import annotations

from typing import Any, Literal

from graftwork.api.wire.base import Body, Wire, seconds
from graftwork.control.services.requests import JobRequest
from graftwork.control.services.sweeps import (
    DEFAULT_RANKS,
    DEFAULT_RATES,
    SweepRequest,
    SweepView,
    TrialView,
)
from graftwork.core.money import dollars
from graftwork.core.specs import TrainingOptions
from graftwork.core.states import wire_status


class Search(Body):
    """What is tried: every combination, or as many as ``trials`` says, drawn by the seed."""

    ranks: tuple[int, ...] = DEFAULT_RANKS
    rates: tuple[float, ...] = DEFAULT_RATES
    """Learning rate multipliers."""
    epochs: tuple[int, ...] = ()
    trials: int | None = None


class CreateSweep(Body):
    """Body of ``POST /api/sweeps``: a job's fields, and the search."""

    model: str
    training_file: str
    validation_file: str | None = None
    suffix: str | None = None
    seed: int | None = None
    metadata: dict[str, str] | None = None
    hyperparameters: dict[str, Any] | None = None
    graftwork: TrainingOptions | None = None
    search: Search = Search()

    def request(self) -> SweepRequest:
        """What the sweeps service takes."""
        options = self.graftwork and self.graftwork.model_dump(mode="json", exclude_unset=True)
        job = JobRequest(
            model=self.model,
            training_file=self.training_file,
            validation_file=self.validation_file,
            suffix=self.suffix,
            seed=self.seed,
            hyperparameters=self.hyperparameters,
            options=options,
            metadata=self.metadata,
        )
        search = self.search
        return SweepRequest(
            job=job, ranks=search.ranks, rates=search.rates, epochs=search.epochs, trials=search.trials
        )


class Trial(Wire):
    """One trial: where it lies in the search, how far it came, and what it cost."""

    number: int
    rank: int | None
    rate: float | None
    epochs: int | None
    state: str
    """in | stopped | failed | best."""
    job: str | None
    status: str | None
    """Of its job."""
    step: int
    losses: list[float]
    """Held-out, at each rung it came to."""
    valid_loss: float | None
    """Held-out, of its best step; None unless it went to the end."""
    trained_tokens: int | None
    cost_micro: int
    cost: str
    reserved_micro: int


class Sweep(Wire):
    """A sweep and its trials."""

    id: str
    object: Literal["sweep"] = "sweep"
    created_at: int
    finished_at: int | None
    state: str
    rung: int
    best: str | None
    """Job of the best trial."""
    fine_tuned_model: str | None
    message: str | None
    cost_micro: int
    cost: str
    trials: list[Trial]


def sweep_wire(view: SweepView) -> Sweep:
    """A sweep as it is told."""
    sweep = view.sweep
    best = next((one.job for one in view.trials if one.job is not None and one.job.id == sweep.best), None)
    return Sweep(
        id=sweep.id,
        created_at=int(sweep.created_at),
        finished_at=seconds(sweep.finished_at),
        state=sweep.state,
        rung=sweep.rung,
        best=sweep.best,
        fine_tuned_model=None if best is None else best.fine_tuned_model,
        message=sweep.message,
        cost_micro=view.cost,
        cost=dollars(view.cost),
        trials=[_trial(one) for one in view.trials],
    )


def _trial(view: TrialView) -> Trial:
    trial, job = view.trial, view.job
    trained = ((job.plan or {}).get("trained") or {}) if job is not None else {}
    return Trial(
        number=trial["number"],
        rank=trial["rank"],
        rate=trial["rate"],
        epochs=trial["epochs"],
        state=trial["state"],
        job=trial["job"],
        status=None if job is None else wire_status(job.phase),
        step=0 if job is None else job.progress,
        losses=list(trial["losses"]),
        valid_loss=trained.get("valid_loss"),
        trained_tokens=None if job is None else job.trained_tokens,
        cost_micro=view.cost,
        cost=dollars(view.cost),
        reserved_micro=view.reserved,
    )
