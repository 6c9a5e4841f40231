"""Data sets: the one validator, with the base model's own tokenizer and template."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from graftwork.artifacts import Artifacts
from graftwork.control.bases import Bases
from graftwork.control.prices import training_price
from graftwork.control.services.files import no_file
from graftwork.control.services.models import find_start
from graftwork.core.errors import InvalidRequest, NotFound
from graftwork.core.money import dollars
from graftwork.core.nouns import Json
from graftwork.core.specs import Hyperparameters, Method, TrainingOptions
from graftwork.data import Report, check_pair, validate
from graftwork.models import DataSize, choose, plan
from graftwork.store import Store


@dataclass(frozen=True, slots=True)
class Upload:
    """Bytes to check that are not stored."""

    content: bytes
    filename: str | None = None


class DatasetsService:
    """Checks data before anything is paid for."""

    def __init__(self, store: Store, artifacts: Artifacts, bases: Bases) -> None:
        self._store = store
        self._artifacts = artifacts
        self._bases = bases

    async def validate(
        self,
        project_id: str,
        data: Upload | str,
        *,
        base: str,
        validation: Upload | str | None = None,
        max_length: int | None = None,
        method: Method = "sft",
    ) -> tuple[Report, Report | None]:
        """Check a data set (an ``Upload``, or the id of a stored file) and its validation set, if given.

        Bad data never raises: every finding is in the reports, leaks between the two among them.

        Raises:
            NotFound: no such base model or file.
        """
        renderer = await self._bases.renderer(base)
        limit = max_length or (await self._bases.get(base)).context
        train = await self._load(project_id, data)
        report = await asyncio.to_thread(
            validate,
            train.content,
            filename=train.filename,
            renderer=renderer,
            max_length=limit,
            method=method,
        )
        if validation is None:
            return report, None
        held_out = await self._load(project_id, validation)
        other = await asyncio.to_thread(
            validate,
            held_out.content,
            filename=held_out.filename,
            renderer=renderer,
            max_length=limit,
            purpose="valid",
            method=method,
        )
        return report, await asyncio.to_thread(check_pair, report, other)

    async def base_of(self, project_id: str, model: str) -> str:
        """The base model of ``model``: itself, or what a version or checkpoint of the project was trained on.

        Raises:
            NotFound: nothing of that name in this project.
        """
        try:
            return (await self._bases.get(model)).name
        except NotFound:
            async with self._store.read() as tx:
                found = await find_start(tx, project_id, model)
            if found is None:
                raise
            return found.base

    async def estimate(
        self, report: Report, other: Report | None, *, base: str, method: Method = "sft"
    ) -> Json | None:
        """What training on checked data would take at today's prices, all automatic; None for bad data.

        Returns:
            The plan's numbers (``steps``, ``trained_tokens``, ``seconds``, ``memory_bytes``, ``why``) and
            ``price_micro`` with ``price`` for people.

        Raises:
            NotFound: no such base model.
        """
        if not report.ok or report.size is None:
            return None
        entry = await self._bases.get(base)
        valid = other.size if other else None
        size = DataSize(
            rows=report.size.rows // (2 if method in ("dpo", "orpo") else 1),
            tokens=report.size.tokens,
            labelled=report.size.labelled,
            longest=report.size.longest,
            valid_rows=valid.rows if valid else 0,
            valid_tokens=valid.tokens if valid else 0,
            valid_longest=valid.longest if valid else 0,
        )
        options = TrainingOptions()
        schedule = choose(Hyperparameters(), options, entry, size, method)
        found = plan(entry, schedule, options.lora, size, method=method)
        async with self._store.read() as tx:
            price = await training_price(tx, entry, found.trained_tokens)
        return {**found.to_json(), "price_micro": price, "price": dollars(price)}

    async def _load(self, project_id: str, data: Upload | str) -> Upload:
        if isinstance(data, Upload):
            if not data.content:
                raise InvalidRequest("The data is empty.", fix="Send a file with rows in it.", param="file")
            return data
        async with self._store.read() as tx:
            stored = await tx.files.get(project_id, data)
        if stored is None:
            raise no_file(data)
        return Upload(await self._artifacts.get(stored.sha256), stored.filename)
