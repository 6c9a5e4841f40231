"""From an engine's bytes to what the caller gets: our id, the caller's model name, usage counted.

Streams are passed on event by event. The first event is parsed to learn what the engine calls the answer and
the model; after that two byte replacements an event are enough, because a raw ``"id":"…"`` cannot occur in a
JSON string (quotes are escaped there). Errors, and the chunk that carries nothing but usage, are parsed.
"""

from __future__ import annotations

from typing import Any

import orjson

from graftwork.core.errors import PlatformError

EVENT_LIMIT = 1024 * 1024
"""Bytes one event of a stream may have."""
DONE = b"data: [DONE]\n\n"
USAGE = b',"usage":'
"""How a chunk's last field begins when an engine counts as it goes."""


def failed(what: str) -> PlatformError:
    """An engine broke its side of the protocol; its own words are not passed on."""
    return PlatformError(what, fix="Try again; the failed attempt is not billed.", code="upstream_error")


def usage_of(answer: dict[str, Any]) -> dict[str, int]:
    """Prompt and completion tokens of an answer or a usage chunk.

    Raises:
        PlatformError: the engine did not count.
    """
    usage = answer.get("usage")
    if not isinstance(usage, dict):
        raise failed("The engine's answer carries no usage.")
    counts = {name: usage.get(name, 0) for name in ("prompt_tokens", "completion_tokens")}
    if not all(type(count) is int and 0 <= count < 2**40 for count in counts.values()):
        raise failed("The engine's usage makes no sense.")
    return counts


def whole(body: bytes, answer_id: str, model: str) -> tuple[bytes, dict[str, int]]:
    """A plain answer rewritten, and its usage.

    Raises:
        PlatformError: not a JSON answer with usage.
    """
    try:
        answer = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise failed("The engine's answer is not JSON.") from error
    if not isinstance(answer, dict) or "error" in answer or not answer.get("choices"):
        raise failed("The engine's answer holds no choices.")
    usage = usage_of(answer)
    answer["id"] = answer_id
    answer["model"] = model
    return orjson.dumps(answer), usage


class Relay:
    """Rewrites one stream. Holds back its end (usage and ``[DONE]``) until the ledger is settled.

    Attributes:
        pieces: events with choices passed on; estimates the tokens generated where an engine does not count.
        done: the engine said ``[DONE]``.
    """

    def __init__(self, answer_id: str, model: str, *, wants_usage: bool) -> None:
        self._id = answer_id
        self._model = model
        self._wants_usage = wants_usage
        self._swaps: list[tuple[bytes, bytes]] = []
        self._usage_last = False
        self._usage: dict[str, int] | None = None
        self._running: bytes | None = None
        self._rest = b""
        self._tail = b""
        self.pieces = 0
        self.done = False

    @property
    def usage(self) -> dict[str, int] | None:
        """The engine's newest counts, if it has sent any.

        Raises:
            PlatformError: they make no sense.
        """
        if self._running is not None:
            self._usage, self._running = usage_of({"usage": _load(self._running)}), None
        return self._usage

    def feed(self, data: bytes) -> bytes:
        """What can be passed on after these bytes; may be empty.

        Raises:
            PlatformError: an error event, a broken event, or one that is too large.
        """
        data = self._rest + data
        if b"\r" in data:
            data = data.replace(b"\r\n", b"\n")
        *events, self._rest = data.split(b"\n\n")
        if len(self._rest) > EVENT_LIMIT:
            raise failed("The engine sent an event without an end.")
        return b"".join([self._event(event) for event in events])

    def end(self) -> bytes:
        """The last bytes of a whole stream: the usage chunk, if it was asked for, and ``[DONE]``.

        Raises:
            PlatformError: the engine stopped before its own end, or did not count.
        """
        if not self.done or self.usage is None:
            raise failed("The engine ended its stream too early.")
        return self._tail + DONE

    def _event(self, event: bytes) -> bytes:
        if not event.startswith(b"data:"):  # comments and other fields mean nothing to clients
            return b""
        payload = event[5:].lstrip()
        if payload == b"[DONE]":
            self.done = True
            return b""
        if self.done:
            raise failed("The engine went on after its end.")
        if self._swaps and b'"error"' not in payload:
            rewritten = self._fast(payload)
            if rewritten is not None:
                self.pieces += 1
                return b"data: " + rewritten + b"\n\n"
        return self._slow(payload)

    def _fast(self, payload: bytes) -> bytes | None:
        """The payload by byte surgery; None where it has to be parsed."""
        if b'"usage"' in payload:
            at = payload.rfind(USAGE) if self._usage_last else -1
            if at < 0 or b'"choices":[]' in payload:
                return None
            running = payload[at + len(USAGE) : -1]
            if running != b"null":
                self._running = running
            payload = payload[:at] + b"}"
        for old, new in self._swaps:
            if old not in payload:
                return None
            payload = payload.replace(old, new, 1)
        return payload

    def _slow(self, payload: bytes) -> bytes:
        chunk = _load(payload)
        if not isinstance(chunk, dict) or "error" in chunk:
            raise failed("The engine failed while it was answering.")
        if not self._swaps:
            self._learn(chunk, payload)
        chunk["id"] = self._id
        chunk["model"] = self._model
        if chunk.get("usage") is not None:
            self._usage, self._running = usage_of(chunk), None
            if not chunk.get("choices"):
                self._tail = b"data: " + orjson.dumps(chunk) + b"\n\n" if self._wants_usage else b""
                return b""
        chunk.pop("usage", None)
        self.pieces += 1
        return b"data: " + orjson.dumps(chunk) + b"\n\n"

    def _learn(self, chunk: dict[str, Any], payload: bytes) -> None:
        """Find how this engine writes the fields; engines that vary are parsed event by event."""
        swaps: list[tuple[bytes, bytes]] = []
        for name, ours in (("id", self._id), ("model", self._model)):
            theirs = orjson.dumps(chunk.get(name))
            for gap in (b"", b" "):
                pattern = b'"%s":%s%s' % (name.encode(), gap, theirs)
                if pattern in payload:
                    swaps.append((pattern, b'"%s":%s' % (name.encode(), orjson.dumps(ours))))
                    break
        if len(swaps) == 2:
            self._swaps = swaps
        self._usage_last = list(chunk)[-1] == "usage" and USAGE in payload


def _load(payload: bytes) -> Any:
    try:
        return orjson.loads(payload)
    except orjson.JSONDecodeError as error:
        raise failed("The engine sent an event that is not JSON.") from error
