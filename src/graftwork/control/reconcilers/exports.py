"""Exports: pending rows become files in artifacts, or a repository on the Hub."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import shutil
import signal
import sys
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path

from pydantic import SecretStr, ValidationError

from graftwork.artifacts import Artifacts
from graftwork.control.bases import Bases
from graftwork.control.bell import Bell
from graftwork.control.export_cards import about_version
from graftwork.control.reconcilers.base import LeaseLost, Pace, Reconciler, Rows
from graftwork.control.services.exports import PushTokens
from graftwork.core.clock import Clock
from graftwork.core.errors import GraftworkError, NotFound, PlatformError, UserError
from graftwork.core.ids import slug
from graftwork.core.nouns import Export, Json
from graftwork.core.states import ExportState
from graftwork.export.request import Answer, Push, Request
from graftwork.registry import receipt_of
from graftwork.store import Claim, Store, Tx

log = logging.getLogger("graftwork.control")

Exporter = Callable[[Request], Awaitable[Answer]]


class ExportReconciler(Reconciler[Export]):
    """Makes exports, each by a process of its own, in a folder that is removed afterwards."""

    name = "exports"

    def __init__(
        self,
        store: Store,
        artifacts: Artifacts,
        bases: Bases,
        tokens: PushTokens,
        *,
        folder: Path,
        clock: Clock,
        bell: Bell,
        pace: Pace,
        owner: str,
        exporter: Exporter | None = None,
    ) -> None:
        super().__init__(store, clock, bell, pace, owner)
        self._artifacts = artifacts
        self._bases = bases
        self._tokens = tokens
        self._folder = folder
        self._exporter = exporter or export_in_process

    def rows(self, tx: Tx) -> Rows[Export]:
        """See ``Reconciler.rows``."""
        return tx.exports

    def key(self, item: Export) -> str:
        """See ``Reconciler.key``."""
        return item.id

    async def work(self, claim: Claim[Export]) -> float:
        """Make one export to its end; what the caller must mend ends it, all else is tried again."""
        folder = self._folder / slug(claim.item.id.replace("_", "-"))
        await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)
        try:
            request = await self._request(claim.item, folder)
            answer = await self._exporter(request)
            if answer.code is not None:
                kind = UserError if answer.user else PlatformError
                raise kind(answer.message or "It failed.", fix=answer.fix, code=answer.code)
            changes = await self._made(claim.item, request, answer)
        except UserError as error:
            changes = {"state": ExportState.FAILED, "error": _told(error)}
        finally:
            await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)
        await self._end(claim, changes)
        return self.pace.poll

    async def give_up(self, claim: Claim[Export], error: Exception) -> float:
        """After many failures that were ours, the export has failed."""
        told = error if isinstance(error, GraftworkError) else PlatformError("The export failed.")
        await self._end(claim, {"state": ExportState.FAILED, "error": _told(told)})
        return self.pace.poll

    async def _request(self, export: Export, folder: Path) -> Request:
        async with self.store.read() as tx:
            version = await tx.versions.get(export.project_id, export.version_id)
            if version is None:
                raise NotFound("The version is not there any more.", code="version_not_found")
            about = await about_version(tx, version)
        receipt = receipt_of(version.manifest)
        base = await self._bases.files(receipt.base)
        licence = (await self._bases.get(receipt.base.name)).licence
        adapter = await self._artifacts.materialize(version.manifest["files"], folder / "adapter")
        return Request(
            format=export.format,  # type: ignore[arg-type]
            quant=export.quant,  # type: ignore[arg-type]
            base=base,
            adapter=adapter,
            into=folder / "out",
            about=about.model_copy(update={"licence": licence}),
            with_base=export.with_base,
            push=self._push(export),
        )

    def _push(self, export: Export) -> Push | None:
        if export.repository is None:
            return None
        token = self._tokens.get(export.id)
        if token is None:
            raise UserError(
                "The server was started again before the push, and tokens are not kept.",
                fix="Push once more.",
                code="push_interrupted",
            )
        return Push(repository=export.repository, private=export.private, token=SecretStr(token))

    async def _made(self, export: Export, request: Request, answer: Answer) -> Json:
        if export.repository is not None:
            return {"state": ExportState.SUCCEEDED, "url": answer.url}
        files: Json = {}
        for path in answer.files:
            sha256 = await self._artifacts.put_file(request.into / path)
            size = await asyncio.to_thread(lambda p=path: (request.into / p).stat().st_size)
            files[path] = {"sha256": sha256, "bytes": size}
        return {"state": ExportState.SUCCEEDED, "files": files}

    async def _end(self, claim: Claim[Export], changes: Json) -> None:
        async with self.store.begin() as tx:
            if not await tx.exports.apply(claim, **changes, finished_at=self.clock.now()):
                raise LeaseLost
        self._tokens.drop(claim.item.id)


async def export_in_process(request: Request) -> Answer:
    """One export in a process of its own, which ends with this one's task.

    Raises:
        PlatformError: the process died without an answer.
    """
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "graftwork.export",
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={**os.environ, "HF_HUB_DISABLE_PROGRESS_BARS": "1", "HF_HUB_DISABLE_TELEMETRY": "1"},
        start_new_session=True,
    )
    try:
        out, err = await process.communicate(_with_token(request))
    except asyncio.CancelledError:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        await process.wait()
        raise
    try:
        return Answer.model_validate_json(out)
    except ValidationError as error:
        words = err.decode(errors="replace")[-2000:]
        log.warning("an export process ended with %s: %s", process.returncode, words)
        raise PlatformError("The export process died.", code="export_died") from error


def _with_token(request: Request) -> bytes:
    """The request as the process reads it: with the token, which pydantic hides wherever it is printed."""
    words = request.model_dump(mode="json")
    if request.push is not None:
        words["push"]["token"] = request.push.token.get_secret_value()
    return json.dumps(words).encode()


def _told(error: GraftworkError) -> Json:
    return {"code": error.code, "message": error.text}
