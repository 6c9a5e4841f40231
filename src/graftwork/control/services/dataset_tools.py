"""The data helpers on a project's files: what they make are new files of the project."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

from graftwork.artifacts import Artifacts
from graftwork.control.bases import Bases
from graftwork.control.services.files import FilesService
from graftwork.core.nouns import StoredFile
from graftwork.data.near import THRESHOLD
from graftwork.data.workbench import (
    Named,
    Outcome,
    dedup_file,
    diff_files,
    mix_files,
    split_file,
    stats_of,
)


@dataclass(frozen=True, slots=True)
class Made:
    """New files by part, and the helper's report."""

    files: dict[str, StoredFile]
    report: dict[str, Any]


class DatasetTools:
    """Split, deduplicate, mix, count and compare: the library's work, on stored files."""

    def __init__(self, files: FilesService, artifacts: Artifacts, bases: Bases) -> None:
        self._files = files
        self._artifacts = artifacts
        self._bases = bases

    async def split(
        self, project_id: str, file_id: str, shares: Mapping[str, float], seed: int, near: float | None
    ) -> Made:
        """New files ``NAME.train.jsonl`` and so on.

        Raises:
            NotFound: no such file. InvalidData: it has errors. InvalidRequest: shares out of range.
        """
        file = await self._load(project_id, file_id)
        return await self._store(
            project_id, file.name, await asyncio.to_thread(split_file, file, shares, seed, near)
        )

    async def dedup(self, project_id: str, file_id: str, near: float | None) -> Made:
        """A new file ``NAME.dedup.jsonl``.

        Raises:
            NotFound: no such file. InvalidData: it has errors.
        """
        file = await self._load(project_id, file_id)
        made = await asyncio.to_thread(dedup_file, file, near)
        return await self._store(project_id, file.name, made, "dedup")

    async def mix(
        self, project_id: str, sources: Sequence[tuple[str, float]], seed: int, total: int | None
    ) -> Made:
        """A new file ``mix.jsonl``.

        Raises:
            NotFound: no such file. InvalidData: one has errors. InvalidRequest: they do not fit together.
        """
        files = [(await self._load(project_id, file_id), weight) for file_id, weight in sources]
        return await self._store(
            project_id, "mix.jsonl", await asyncio.to_thread(mix_files, files, seed, total), "mix"
        )

    async def diff(self, project_id: str, before: str, after: str, near: float) -> dict[str, Any]:
        """What became of the rows of one file in the other.

        Raises:
            NotFound: no such file. InvalidData: one has errors.
        """
        old, new = await self._load(project_id, before), await self._load(project_id, after)
        return await asyncio.to_thread(diff_files, old, new, near)

    async def stats(
        self, project_id: str, data: Named | str, *, base: str, near: float | None = THRESHOLD
    ) -> dict[str, Any]:
        """An upload or a stored file in numbers.

        Raises:
            NotFound: no such base model or file.
        """
        file = data if isinstance(data, Named) else await self._load(project_id, data)
        renderer = await self._bases.renderer(base)
        context = (await self._bases.get(base)).context
        return await asyncio.to_thread(stats_of, file, renderer, context, near)

    async def _load(self, project_id: str, file_id: str) -> Named:
        stored = await self._files.get(project_id, file_id)
        return Named(stored.filename, await self._artifacts.get(stored.sha256))

    async def _store(self, project_id: str, name: str, made: Outcome, what: str = "") -> Made:
        """Each part as a file of its own; an empty part is none."""
        stem = PurePath(name).stem if what != "mix" else ""
        files: dict[str, StoredFile] = {}
        for part, content in made.files.items():
            if content:
                filename = ".".join(word for word in (stem, what or part, "jsonl") if word)
                files[part] = await self._files.create(
                    project_id, filename=filename, purpose="fine-tune", content=content
                )
        return Made(files, made.report)
