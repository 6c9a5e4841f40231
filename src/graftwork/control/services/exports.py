"""Exports: a version's files in another format, made in the background, downloaded or pushed to the Hub."""

from __future__ import annotations

from collections.abc import AsyncIterator

from graftwork.artifacts import Artifacts
from graftwork.control.bell import Bell
from graftwork.core.clock import Clock
from graftwork.core.errors import Conflict, InvalidRequest, NotFound, RateLimited
from graftwork.core.ids import EXPORT, new_id
from graftwork.core.nouns import Export
from graftwork.core.states import ExportState
from graftwork.registry import resolve
from graftwork.store import Store, Tx

FORMATS = ("peft", "merged", "gguf", "lora-gguf", "ollama", "lmstudio")
QUANTS = ("f16", "q8_0", "q4_k_m")
_UNFINISHED = 4
"""Exports that a project may have under way."""


class PushTokens:
    """Tokens for the Hub by export, in memory alone: they are nobody's to find in a database or a log.

    A push whose token is gone, because the server was started again, fails and says so.
    """

    def __init__(self) -> None:
        self._tokens: dict[str, str] = {}

    def put(self, export_id: str, token: str) -> None:
        """Remember a token until the push has ended."""
        self._tokens[export_id] = token

    def get(self, export_id: str) -> str | None:
        """The token, if this process was given it."""
        return self._tokens.get(export_id)

    def drop(self, export_id: str) -> None:
        """Forget it."""
        self._tokens.pop(export_id, None)


class ExportsService:
    """A project's exports."""

    def __init__(
        self, store: Store, artifacts: Artifacts, clock: Clock, bell: Bell, tokens: PushTokens
    ) -> None:
        self._store = store
        self._artifacts = artifacts
        self._clock = clock
        self._bell = bell
        self._tokens = tokens

    async def create(
        self, project_id: str, reference: str, *, format: str, quant: str = "f16", with_base: bool = False
    ) -> Export:
        """Have a version exported; the export there is already, if one of the same kind did not fail.

        Raises:
            NotFound: nothing of that name in this project.
            InvalidRequest: no such format.
            RateLimited: too many exports of this project are under way.
        """
        _check(format, quant, with_base)
        async with self._store.begin() as tx:
            version = await resolve(tx, project_id, reference)
            export = await tx.exports.like(version.id, format, quant, with_base)
            if export is None:
                export = self._fresh(project_id, version.id, format, quant, with_base=with_base)
                await _add(tx, export)
        self._bell.ring()
        return export

    async def push(
        self,
        project_id: str,
        reference: str,
        *,
        repository: str,
        token: str,
        private: bool = True,
        format: str = "peft",
        quant: str = "f16",
    ) -> Export:
        """Have a version exported and pushed to a repository of the Hugging Face Hub.

        Raises:
            NotFound: nothing of that name in this project.
            InvalidRequest: no such format, or no token.
            RateLimited: too many exports of this project are under way.
        """
        _check(format, quant, with_base=False)
        if not token.strip():
            raise InvalidRequest("A push needs a token.", fix="Send one that may write.", param="token")
        async with self._store.read() as tx:
            version = await resolve(tx, project_id, reference)
        export = self._fresh(project_id, version.id, format, quant, repository=repository, private=private)
        self._tokens.put(export.id, token.strip())  # before the row: it may be claimed at once
        try:
            async with self._store.begin() as tx:
                await _add(tx, export)
        except BaseException:
            self._tokens.drop(export.id)
            raise
        self._bell.ring()
        return export

    async def get(self, project_id: str, export_id: str) -> Export:
        """One export.

        Raises:
            NotFound: no such export in this project.
        """
        async with self._store.read() as tx:
            export = await tx.exports.get(project_id, export_id)
        if export is None:
            raise NotFound(f"No such export: {export_id}.", fix="List the exports.", code="export_not_found")
        return export

    async def list(self, project_id: str, limit: int = 100) -> list[Export]:
        """The project's exports, newest first."""
        async with self._store.read() as tx:
            return await tx.exports.list(project_id, limit)

    async def file(self, project_id: str, export_id: str, path: str) -> tuple[int, AsyncIterator[bytes]]:
        """Size and bytes of one file of a finished export.

        Raises:
            NotFound: no such export in this project, or no such file in it.
            Conflict: it is not finished.
        """
        export = await self.get(project_id, export_id)
        if export.state is not ExportState.SUCCEEDED:
            raise Conflict(
                f"The export {export_id} has {export.state}.", fix="Wait for it.", code="export_not_finished"
            )
        found = (export.files or {}).get(path)
        if found is None:
            raise NotFound(f"The export holds no {path!r}.", fix="Show the export.", code="file_not_found")
        return found["bytes"], self._artifacts.stream(found["sha256"])

    def _fresh(
        self,
        project_id: str,
        version_id: str,
        format: str,
        quant: str,
        *,
        with_base: bool = False,
        repository: str | None = None,
        private: bool = True,
    ) -> Export:
        return Export(
            id=new_id(EXPORT),
            project_id=project_id,
            version_id=version_id,
            format=format,
            quant=quant,
            with_base=with_base,
            repository=repository,
            private=private,
            state=ExportState.PENDING,
            created_at=self._clock.now(),
        )


def _check(format: str, quant: str, with_base: bool) -> None:
    if format not in FORMATS:
        raise InvalidRequest(
            f"There is no format {format!r}.", fix=f"Choose from {', '.join(FORMATS)}.", param="format"
        )
    if quant not in QUANTS:
        raise InvalidRequest(
            f"There is no quant {quant!r}.", fix=f"Choose from {', '.join(QUANTS)}.", param="quant"
        )
    if with_base and format != "lora-gguf":
        raise InvalidRequest(
            f"The base model's file does not go with {format}.", fix="Leave it out.", param="with_base"
        )


async def _add(tx: Tx, export: Export) -> None:
    if await tx.exports.pending(export.project_id) >= _UNFINISHED:
        raise RateLimited(
            f"{_UNFINISHED} exports are under way already.", fix="Wait for one.", code="too_many_exports"
        )
    await tx.exports.create(export)
