"""The plan of a job that is not made: does it fit, how long, what cost, on what, and why."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence

from graftwork.artifacts import Artifacts
from graftwork.control.bases import Bases
from graftwork.control.prices import training_price
from graftwork.control.services.files import no_file
from graftwork.control.services.jobs import JobsService
from graftwork.control.services.methods import quantization_of, trainer_of
from graftwork.control.services.requests import JobRequest, check_request
from graftwork.core.errors import InvalidData
from graftwork.core.money import dollars
from graftwork.core.nouns import Json
from graftwork.core.specs import Method
from graftwork.data import Renderer, Report, Row, check_pair, measure, split, validate
from graftwork.models import DataSize, Target, choose, fit
from graftwork.store import Store

Machines = Callable[[], Awaitable[Sequence[Target]]]
"""What machines are on offer now, cheapest first."""


async def nowhere() -> Sequence[Target]:
    """No machine is known: a plan without one fits everywhere."""
    return ()


class PlansService:
    """Plans without deeds: nothing is stored, bought or promised."""

    def __init__(
        self,
        store: Store,
        artifacts: Artifacts,
        bases: Bases,
        jobs: JobsService,
        machines: Machines = nowhere,
    ) -> None:
        self._store = store
        self._jobs = jobs
        self._artifacts = artifacts
        self._bases = bases
        self._machines = machines

    async def plan(self, project_id: str, request: JobRequest) -> Json:
        """What a job of this request would do, by the same rules that plan a job.

        Returns:
            The plan's numbers and reasons, the schedule with what explains it, and what it is by today's
            prices; ``fits`` False when no machine on offer is large enough.

        Raises:
            InvalidRequest: a field is out of range. InvalidData: a file cannot be trained on. NotFound: no
                such base model or file.
        """
        checked = check_request(request)
        base, _, options = await self._jobs.began(project_id, request, checked.options)
        method = options.method or "sft"
        entry = await self._bases.pinned(base)
        renderer = await self._bases.renderer(base)
        length = options.max_length or entry.context
        train = await self._report(project_id, request.training_file, renderer, length, method)
        valid: list[Row] = []
        rows = train.rows_canonical()
        if request.validation_file is not None:
            other = await self._report(project_id, request.validation_file, renderer, length, method, "valid")
            valid = _usable(await asyncio.to_thread(check_pair, train, other))
        else:
            rows, valid = await asyncio.to_thread(split, rows, options.holdout, checked.seed)
        size = await asyncio.to_thread(size_of, rows, valid, renderer, length, method)
        chosen = choose(checked.hyperparameters, options, entry, size, method)
        found = await asyncio.to_thread(
            fit,
            entry,
            chosen,
            options.lora,
            size,
            await self._machines(),
            method=method,
            trainer=trainer_of(options),
            quantization=quantization_of(options),
        )
        async with self._store.read() as tx:
            price = await training_price(tx, entry, found.plan.trained_tokens)
        cost = found.plan.machine_cost
        return {
            **found.plan.to_json(),
            "price": dollars(price),
            "price_micro": price,
            "machine_cost": None if cost is None else dollars(cost),
            "machine_cost_micro": cost,
            "schedule": found.schedule.model_dump(exclude={"explained"}),
            "explained": found.schedule.explained,
            "rows": size.rows,
            "held_out": size.valid_rows,
        }

    async def _report(
        self,
        project_id: str,
        file_id: str,
        renderer: Renderer,
        length: int,
        method: Method,
        purpose: str = "train",
    ) -> Report:
        async with self._store.read() as tx:
            stored = await tx.files.get(project_id, file_id)
        if stored is None:
            raise no_file(file_id)
        report = await asyncio.to_thread(
            validate,
            await self._artifacts.get(stored.sha256),
            filename=stored.filename,
            renderer=renderer,
            max_length=length,
            purpose="valid" if purpose == "valid" else "train",
            method=method,
        )
        _usable(report)
        return report


def size_of(
    train: Sequence[Row], valid: Sequence[Row], renderer: Renderer, length: int, method: Method
) -> DataSize:
    """The sizes that decide a schedule."""
    counted = measure(train, renderer, length, method=method)
    looked_at = measure(valid, renderer, length, method=method)
    return DataSize(
        rows=counted.rows,
        tokens=counted.tokens,
        labelled=counted.labelled,
        # Held-out rows may be longer than any row trained on: they are measured whole all the same.
        longest=max(counted.longest, looked_at.longest),
        valid_rows=looked_at.rows,
        valid_tokens=looked_at.tokens,
        valid_longest=looked_at.longest,
    )


def _usable(report: Report) -> list[Row]:
    if not report.ok:
        found = [finding.to_json() for finding in report.findings]
        raise InvalidData(
            f"The file has {len(report.errors)} problems; nothing can be planned.",
            fix="Mend them and try again.",
            details={"findings": found},
        )
    return report.rows_canonical()
