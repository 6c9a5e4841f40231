"""Keeps requests with their answers, for projects that opted for it: beside the request path, never in it.

A request hands over what it has anyway (bytes that went by) and goes on; a task of its own parses, redacts,
compresses and writes, many in a transaction. When that cannot keep up, or the disk is full, or anything is
odd, what should have been kept is dropped and counted: an answer never waits for it and never fails by it.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import orjson
from sqlalchemy.exc import SQLAlchemyError

from graftwork.core.nouns import Json, Keeping, KeptRequest
from graftwork.gateway.redaction import redact_all
from graftwork.store import Store
from graftwork.store.kept import DAY, packed

log = logging.getLogger(__name__)

WAITING = 2000
"""Requests that may wait to be written; together they may have ``WAITING_BYTES``."""
WAITING_BYTES = 64 * 1024 * 1024
BATCH = 200
BODY_LIMIT = 1024 * 1024
"""Bytes of one kept request before it is compressed: the longest row of a data set."""
PAUSE = 0.2
"""Seconds to let more come before a transaction; the ledger has the writer meanwhile."""

Redact = Callable[[Json], Json | None]
"""Takes ``{"request", "answer"}`` and gives what may be kept of it; None keeps nothing."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """A request to be kept, as it went by.

    Attributes:
        answer: the body of a plain answer, or the events of a stream, as they went out.
        size: bytes that it holds while it waits, about.
        identity: columns of the row: model, base, adapter, version and name.
    """

    id: str
    keeping: Keeping
    request: dict[str, Any]
    answer: bytes
    streamed: bool
    metadata: dict[str, str] | None
    identity: dict[str, str | None]
    at: float
    size: int


def keeps(keeping: Keeping | None, store: bool | None) -> bool:
    """Whether a request is kept: by what its project opted for and its own ``store``."""
    if keeping is None or keeping.mode == "off":
        return False
    return store is True if keeping.mode == "asked" else store is not False


class Keeper:
    """Writes kept requests in the background. One per gateway.

    Attributes:
        dropped: requests that should have been kept and were not.
        written: requests that were.
    """

    def __init__(self, store: Store, redact: Redact | None = None, pause: float = PAUSE) -> None:
        """``redact`` is applied after our own redaction, where the project wants that."""
        self._store = store
        self._redact = redact
        self._pause = pause
        self._queue: deque[Wanted] = deque()
        self._bytes = 0
        self._task: asyncio.Task[None] | None = None
        self.dropped = 0
        self.written = 0

    def put(self, wanted: Wanted) -> None:
        """Take a request; returns at once."""
        if len(self._queue) >= WAITING or self._bytes + wanted.size > WAITING_BYTES:
            self._drop(1, "they come faster than they can be written")
            return
        self._queue.append(wanted)
        self._bytes += wanted.size
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._drain())

    async def close(self) -> None:
        """Return once everything taken is written or dropped."""
        self._pause = 0.0
        while self._task is not None and not self._task.done():
            await self._task

    async def _drain(self) -> None:
        while self._queue:
            await asyncio.sleep(self._pause)
            batch = [self._queue.popleft() for _ in range(min(BATCH, len(self._queue)))]
            self._bytes -= sum(wanted.size for wanted in batch)
            rows = await asyncio.to_thread(self._rows, batch)
            try:
                async with self._store.begin() as tx:
                    await tx.kept.add(rows)
                self.written += len(rows)
            except (SQLAlchemyError, OSError) as error:
                self._drop(len(rows), str(error).splitlines()[0])

    def _rows(self, batch: list[Wanted]) -> list[KeptRequest]:
        """What is written of a batch; runs in a thread. A request that cannot be kept spoils no other."""
        rows: list[KeptRequest] = []
        for wanted in batch:
            try:
                row = self._row(wanted)
            except Exception as error:  # an operator's function may raise anything
                self._drop(1, f"{type(error).__name__} while it was made ready")
                continue
            if row is not None:
                rows.append(row)
        return rows

    def _row(self, wanted: Wanted) -> KeptRequest | None:
        answer = joined(wanted.answer) if wanted.streamed else orjson.loads(wanted.answer)
        kept: Json | None = {"request": wanted.request, "answer": answer}
        if len(orjson.dumps(kept)) > BODY_LIMIT:
            self._drop(1, f"it has more than {BODY_LIMIT} bytes")
            return None
        if wanted.keeping.redact:
            kept = redact_all(kept)
        if kept is not None and self._redact is not None:
            kept = self._redact(kept)
        if kept is None:
            return None
        body = packed(kept)
        return KeptRequest(
            id=wanted.id,
            project_id=wanted.keeping.project_id,
            model=wanted.identity["model"] or "",
            base=wanted.identity["base"] or "",
            adapter=wanted.identity["adapter"],
            version=wanted.identity["version"],
            name=wanted.identity["name"] or "",
            metadata=wanted.metadata,
            bytes=len(body),
            body=body,
            created_at=wanted.at,
            expires_at=wanted.at + wanted.keeping.days * DAY,
        )

    def _drop(self, count: int, why: str) -> None:
        if self.dropped == 0 or (self.dropped + count) // 1000 > self.dropped // 1000:
            log.warning("requests are not kept as their projects asked (%d so far): %s", self.dropped, why)
        self.dropped += count


def joined(events: bytes) -> Json:
    """The answer that a stream's events add up to, as it would have come in one piece.

    Raises:
        ValueError: they are no events of a chat completion.
    """
    answer: Json = {}
    choices: dict[int, Json] = {}
    for event in events.split(b"\n\n"):
        payload = event.removeprefix(b"data: ").strip()
        if not payload or payload == b"[DONE]":
            continue
        chunk = orjson.loads(payload)
        answer = answer or {key: chunk[key] for key in ("id", "created", "model") if key in chunk}
        if chunk.get("usage"):
            answer["usage"] = chunk["usage"]
        for part in chunk.get("choices", ()):
            index = part.get("index", 0)
            choice = choices.setdefault(
                index, {"index": index, "message": {"role": "assistant", "content": None}}
            )
            _add(choice["message"], part.get("delta") or {})
            if part.get("finish_reason"):
                choice["finish_reason"] = part["finish_reason"]
    if not choices:
        raise ValueError("a stream without choices")
    return {**answer, "object": "chat.completion", "choices": [choices[at] for at in sorted(choices)]}


def _add(message: Json, delta: Json) -> None:
    """Lay a delta onto a message: texts are appended, calls by their index."""
    for key in ("content", "reasoning_content", "refusal"):
        if delta.get(key):
            message[key] = (message.get(key) or "") + delta[key]
    for part in delta.get("tool_calls") or ():
        calls = message.setdefault("tool_calls", [])
        while len(calls) <= part.get("index", 0):
            calls.append({"id": "", "type": "function", "function": {"name": "", "arguments": ""}})
        call = calls[part.get("index", 0)]
        call["id"] = part.get("id") or call["id"]
        function = part.get("function") or {}
        for key in ("name", "arguments"):
            call["function"][key] += function.get(key) or ""
