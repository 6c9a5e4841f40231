"""Sweeps: searches over learning rate, rank and epochs, whose trials are ordinary jobs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from graftwork.control.bases import Bases
from graftwork.control.bell import Bell
from graftwork.control.halving import Point, points
from graftwork.control.services.files import check_files
from graftwork.control.services.requests import MAX_SEED, JobRequest, check_request
from graftwork.core import ids
from graftwork.core.clock import Clock
from graftwork.core.errors import Conflict, InvalidRequest, NotFound
from graftwork.core.nouns import Job, Json, Sweep
from graftwork.core.states import EntryState, Want
from graftwork.store import Page, Store, Tx
from graftwork.store.sweeps import RUNNING

DEFAULT_RATES, DEFAULT_RANKS = (0.3, 1.0, 3.0), (8, 32)
"""What is tried when nothing is said: around the rule's own learning rate, a small and a larger rank."""
OWN = frozenset({"n_epochs", "learning_rate_multiplier"})
"""Hyperparameters that belong to the search where it has values for them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SweepRequest:
    """A request to search, as it came."""

    job: JobRequest
    """What every trial has in common."""
    ranks: Sequence[int] = DEFAULT_RANKS
    rates: Sequence[float] = DEFAULT_RATES
    """Learning rate multipliers."""
    epochs: Sequence[int] = ()
    """Empty leaves them to the planner."""
    trials: int | None = None
    """Draw so many of the combinations; None tries all."""


@dataclass(frozen=True, slots=True)
class TrialView:
    """One trial of a sweep with what became of it."""

    trial: Json
    job: Job | None
    """None before it was created."""
    cost: int
    """Micro-dollars settled for it, and still reserved."""
    reserved: int


@dataclass(frozen=True, slots=True)
class SweepView:
    """A sweep with its trials, in the order they were drawn."""

    sweep: Sweep
    trials: tuple[TrialView, ...]

    @property
    def cost(self) -> int:
        """Micro-dollars settled for all trials together."""
        return sum(trial.cost for trial in self.trials)


class SweepsService:
    """Sweeps of a project."""

    def __init__(self, store: Store, bases: Bases, clock: Clock, bell: Bell) -> None:
        self._store, self._bases, self._clock, self._bell = store, bases, clock, bell

    async def create(self, project_id: str, request: SweepRequest) -> SweepView:
        """Write a sweep down; its reconciler creates the trials and stops the worse of them.

        Raises:
            InvalidRequest: a field is out of range, or the search is too large.
            NotFound: no such base model or file.
        """
        checked = check_request(request.job)
        await self._bases.get(request.job.model)
        if checked.options.holdout == 0 and request.job.validation_file is None:
            raise InvalidRequest(
                "A sweep compares held-out losses, and nothing would be held out.",
                fix="Send a validation file, or leave holdout as it is.",
                code="sweep_without_held_out",
                param="validation_file",
            )
        found = points(request.ranks, request.rates, request.epochs, request.trials, checked.seed % MAX_SEED)
        common = {**asdict(request.job), "seed": checked.seed}
        trials = [_trial(number, point) for number, point in enumerate(found, 1)]
        for trial in trials:
            check_request(request_of(common, trial, "sweep"))
        sweep = Sweep(
            id=ids.new_id(ids.SWEEP),
            project_id=project_id,
            state=RUNNING,
            want=Want.RUN,
            request=common,
            trials=trials,
            created_at=self._clock.now(),
        )
        async with self._store.begin() as tx:
            await check_files(tx, project_id, request.job.training_file, request.job.validation_file)
            await tx.sweeps.create(sweep)
        self._bell.ring()
        return await self.get(project_id, sweep.id)

    async def get(self, project_id: str, sweep_id: str) -> SweepView:
        """One sweep with its trials.

        Raises:
            NotFound: no such sweep in this project.
        """
        async with self._store.read() as tx:
            return await _view(tx, await _sweep(tx, project_id, sweep_id))

    async def list(self, project_id: str, *, after: str | None = None, limit: int = 20) -> Page[SweepView]:
        """The project's sweeps, newest first."""
        async with self._store.read() as tx:
            page = await tx.sweeps.list(project_id, after=after, limit=limit)
            return Page([await _view(tx, sweep) for sweep in page.items], page.has_more)

    async def cancel(self, project_id: str, sweep_id: str) -> SweepView:
        """End a sweep and all its trials now.

        Raises:
            NotFound: no such sweep in this project.
            Conflict: it has already ended.
        """
        async with self._store.begin() as tx:
            sweep = await _sweep(tx, project_id, sweep_id)
            if not await tx.sweeps.cancel(project_id, sweep_id):
                raise Conflict(f"Sweep {sweep_id!r} has already {sweep.state}.", code="sweep_ended")
        self._bell.ring()
        return await self.get(project_id, sweep_id)


def request_of(common: Mapping[str, Any], trial: Mapping[str, Any], sweep_id: str) -> JobRequest:
    """The job of a trial: what all have in common, with its own point in place."""
    hyperparameters = dict(common["hyperparameters"] or {})
    options = dict(common["options"] or {})
    if trial["rate"] is not None:
        hyperparameters["learning_rate_multiplier"] = trial["rate"]
    if trial["epochs"] is not None:
        hyperparameters["n_epochs"] = trial["epochs"]
    if trial["rank"] is not None:
        options["lora"] = {**(options.get("lora") or {}), "rank": trial["rank"]}
    metadata = {**(common["metadata"] or {}), "sweep": sweep_id, "trial": str(trial["number"])}
    given = {**common, "hyperparameters": hyperparameters, "options": options, "metadata": metadata}
    return JobRequest(**given)


def _trial(number: int, point: Point) -> Json:
    return {"number": number, **asdict(point), "job": None, "state": "in", "losses": []}


async def _sweep(tx: Tx, project_id: str, sweep_id: str) -> Sweep:
    sweep = await tx.sweeps.get(project_id, sweep_id)
    if sweep is None:
        raise NotFound(f"No such sweep: {sweep_id!r}.", code="sweep_not_found", param="sweep_id")
    return sweep


async def _view(tx: Tx, sweep: Sweep) -> SweepView:
    views: list[TrialView] = []
    for trial in sweep.trials:
        job = None if trial["job"] is None else await tx.jobs.get(sweep.project_id, trial["job"])
        entries = [] if job is None else await tx.ledger.for_job(sweep.project_id, job.id)
        settled = sum(entry.amount for entry in entries if entry.state is EntryState.SETTLED)
        still_open = sum(entry.amount for entry in entries if entry.state is EntryState.OPEN)
        views.append(TrialView(trial, job, settled, still_open))
    return SweepView(sweep, tuple(views))
