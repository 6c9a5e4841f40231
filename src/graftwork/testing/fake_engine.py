"""An engine without a model: the real HTTP application over scripted answers, in this process.

It is as strict as the embedded engine because everything but the arithmetic is the same code: unknown
models are 404, a name taken by another directory is 409, a directory that is no adapter is 400, numbers
are bounded, errors come in OpenAI's envelope. One token is one word with the blank before it.

Example::

    engine = FakeEngine(say=lambda model, messages: "Paris" if model != "base" else "I do not know")
    info = await engine.ensure(Path("anything"), "seedling")   # serves on a loopback port
    await engine.load("a" * 32, directory)
    client = EngineClient(info.url, info.token)
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
from starlette.applications import Starlette

from graftwork.core.errors import (
    Conflict,
    GraftworkError,
    InvalidRequest,
    NotFound,
    PlatformError,
    Unavailable,
)
from graftwork.serving.port import BASE, EngineInfo, EngineMetrics, EngineState, EngineStatus
from graftwork.serving.wire.app import build_app, model_not_found
from graftwork.serving.wire.backend import Card, Scored, Step, Ticket, Work
from graftwork.serving.wire.server import LoopbackServer

Json = dict[str, Any]
Say = Callable[[str, list[Json]], str]
Score = Callable[[str, Sequence[int]], list[float]]


def echo(model: str, messages: list[Json]) -> str:
    """The default answer: the model's name and the last message."""
    return f"{model} says {messages[-1]['content']}"


def hashed(model: str, tokens: Sequence[int]) -> list[float]:
    """The default log-probabilities: between -4 and 0, by model and token alone."""
    digests = (hashlib.sha256(f"{model}/{token}".encode()).digest() for token in tokens)
    return [-4.0 * digest[0] / 255 for digest in digests]


class WordCodec:
    """Words as tokens; ids are given in order of appearance."""

    def __init__(self) -> None:
        self._words: list[str] = []
        self._ids: dict[str, int] = {}

    def render(self, messages: list[Json], tools: list[Json] | None) -> str:
        """The messages as JSON: the fake's chat template."""
        return json.dumps(messages)

    def encode(self, text: str, *, special: bool) -> list[int]:
        """Ids of the words of ``text``."""
        return [self._id(word) for word in re.findall(r"\s*\S+|\s+", text)]

    def _id(self, word: str) -> int:
        if word not in self._ids:
            self._ids[word] = len(self._words)
            self._words.append(word)
        return self._ids[word]

    def decode(self, tokens: Sequence[int]) -> str:
        """The words; ids never given out read ``<id>``."""
        return "".join(self.piece(token)[0] for token in tokens)

    def piece(self, token: int) -> tuple[str, bytes]:
        """One word."""
        text = self._words[token] if token < len(self._words) else f"<{token}>"
        return text, text.encode()

    def stream(self) -> _WordStream:
        """Words are never incomplete."""
        return _WordStream(self)


@dataclass(frozen=True, slots=True)
class _WordStream:
    codec: WordCodec

    def push(self, token: int) -> str:
        """The word."""
        return self.codec.piece(token)[0]

    def finish(self) -> str:
        """Nothing is left."""
        return ""


@dataclass(slots=True)
class _FakeTicket:
    task: asyncio.Task[None]

    def cancel(self) -> None:
        """Stop saying."""
        self.task.cancel()


@dataclass(slots=True)
class FakeBackend:
    """Scripted answers behind the ``Backend`` interface. Fields may be changed while it runs."""

    say: Say = echo
    score: Score = hashed
    base: str = "fake"
    context: int = 4096
    vocabulary: int = 2**20
    max_waiting: int = 64
    """Answers in flight beyond which the queue is full."""
    delay: float = 0.0
    """Seconds between tokens; 0 lets other tasks run and no more."""
    fail: GraftworkError | None = None
    """When set, every answer breaks with this after its first token."""
    codec: WordCodec = field(default_factory=WordCodec)
    adapters: dict[str, Path] = field(default_factory=dict)
    draining: bool = False
    seen: list[Work] = field(default_factory=list)
    """Every work that was accepted, in order."""
    running: set[asyncio.Task[None]] = field(default_factory=set)
    generated: dict[str, int] = field(default_factory=dict)

    def cards(self) -> list[Card]:
        """The base, then the adapters."""
        loaded = [Card(name=n, root=str(p), parent=BASE) for n, p in self.adapters.items()]
        return [Card(name=BASE, root=self.base), *loaded]

    def submit(self, work: Work, sink: Callable[[Step], None]) -> Ticket:
        """Answer as scripted."""
        if work.model != BASE and work.model not in self.adapters:
            raise model_not_found(work.model)
        if self.draining:
            raise Unavailable("The engine is draining.", code="engine_draining")
        if len(self.running) >= self.max_waiting:
            raise Unavailable("The engine's queue is full.", code="engine_full")
        self.seen.append(work)
        task = asyncio.get_running_loop().create_task(self._answer(work, sink))
        self.running.add(task)

        def ended(done: asyncio.Task[None]) -> None:
            self.running.discard(done)
            if not done.cancelled() and (why := done.exception()) is not None:
                sink(Step(error=PlatformError(f"The script of the fake engine failed: {why!r}.")))

        task.add_done_callback(ended)
        return _FakeTicket(task)

    async def _answer(self, work: Work, sink: Callable[[Step], None]) -> None:
        sampling = work.sampling
        if sampling.prompt_logprobs:
            sink(Step(prompt=self._scored(work.model, work.prompt, first=True)))
        messages = _messages(self.codec.decode(work.prompt))
        answer = self.codec.encode(self.say(work.model, messages), special=False)
        cut = answer[: sampling.max_tokens]
        for token in self._scored(work.model, cut, first=False):
            await asyncio.sleep(self.delay)
            sink(Step(tokens=(token,), generated=1))
            self.generated[work.model] = self.generated.get(work.model, 0) + 1
            if self.fail is not None:
                sink(Step(error=self.fail))
                return
        sink(Step(finish="stop" if len(cut) < sampling.max_tokens else "length"))

    def _scored(self, model: str, tokens: Sequence[int], *, first: bool) -> tuple[Scored, ...]:
        values = self.score(model, tokens)
        scored = [Scored(t, v, ((t, v),)) for t, v in zip(tokens, values, strict=True)]
        if first and scored:
            scored[0] = Scored(scored[0].id)
        return tuple(scored)

    async def load(self, name: str, directory: Path) -> None:
        """Accept any directory with a PEFT adapter's two files."""
        if self.adapters.get(name, directory) != directory or name == BASE:
            raise Conflict(f"The name {name!r} is taken by other weights.", code="adapter_conflict")
        for file in ("adapter_config.json", "adapter_model.safetensors"):
            if not (directory / file).is_file():
                raise InvalidRequest(f"{directory} has no {file}.", code="invalid_adapter", param="path")
        self.adapters[name] = directory

    def unload(self, name: str) -> None:
        """Forget the name."""
        if self.adapters.pop(name, None) is None:
            raise NotFound(f"The adapter {name!r} is not loaded.", code="adapter_not_found")

    def drain(self) -> None:
        """Refuse new works."""
        self.draining = True

    def metrics(self) -> EngineMetrics:
        """What was counted."""
        return EngineMetrics(
            running=len(self.running),
            waiting=0,
            kv_tokens_used=0,
            kv_tokens_total=self.context,
            prompt_tokens=sum(len(work.prompt) for work in self.seen),
            generated_tokens=sum(self.generated.values()),
            requests=len(self.seen),
            generated_by_model=dict(self.generated),
        )


def _messages(text: str) -> list[Json]:
    """A chat's messages, as ``WordCodec.render`` wrote them; any other text is one user message.

    Token ids of a real tokenizer may read as pieces of an earlier chat: they need not be whole.
    """
    try:
        found = json.loads(text) if text.startswith("[{") else None
    except json.JSONDecodeError:
        found = None
    return found or [{"role": "user", "content": text}]


class FakeEngine:
    """``Engine`` over ``FakeBackend``: starts at once, serves on a loopback port, can be killed.

    Args:
        say: model and messages to the answer; a plain completion comes as one user message.
        score: model and tokens to their log-probabilities.
    """

    def __init__(self, say: Say = echo, score: Score = hashed) -> None:
        self.backend = FakeBackend(say, score)
        self._info: EngineInfo | None = None
        self._generation = 0
        self._dead = False
        self._server: LoopbackServer | None = None
        self._serving: asyncio.Task[None] | None = None
        self.app: Starlette | None = None
        """The application now served."""

    async def ensure(self, base: Path, name: str) -> EngineInfo:
        """Serve on a free loopback port, unless it does already."""
        if self._info is not None and self.backend.base == name:
            return self._info
        await self._stop()
        self._generation += 1
        self.backend = FakeBackend(self.backend.say, self.backend.score, base=name)
        token = secrets.token_hex(16)
        self.app = build_app(self.backend, token)
        self._server = LoopbackServer(self.app)
        self._serving = asyncio.create_task(self._server.run_here())
        await self._server.listening.wait()
        self._info = EngineInfo(url=self._server.url, token=token, generation=self._generation)
        self._dead = False
        return self._info

    def transport(self) -> httpx.AsyncBaseTransport:
        """A way to the running engine without a socket, for ``EngineClient``.

        Raises:
            Unavailable: it is not running.
        """
        if self.app is None or self._info is None:
            raise _not_running()
        return httpx.ASGITransport(self.app)

    async def crash(self) -> None:
        """Die as a killed process does: nothing answers, adapters are lost; ``ensure`` starts it again."""
        await self._stop()
        self._dead = True

    async def observe(self) -> EngineStatus:
        """Ready with its adapters, absent, or failed after a crash."""
        if self._info is None:
            if self._dead:
                return EngineStatus(state=EngineState.FAILED, message="The engine was killed.")
            return EngineStatus(state=EngineState.ABSENT)
        return EngineStatus(
            state=EngineState.READY, info=self._info, adapters=frozenset(self.backend.adapters)
        )

    async def load(self, name: str, directory: Path) -> None:
        """As ``Engine.load``."""
        if self._info is None:
            raise _not_running()
        await self.backend.load(name, directory)

    async def unload(self, name: str) -> None:
        """As ``Engine.unload``."""
        if self._info is not None and name in self.backend.adapters:
            self.backend.unload(name)

    async def adapters(self) -> set[str]:
        """As ``Engine.adapters``."""
        return set(self.backend.adapters) if self._info is not None else set()

    async def drain(self, seconds: float) -> bool:
        """As ``Engine.drain``."""
        self.backend.drain()
        if self.backend.running:
            await asyncio.wait(self.backend.running, timeout=seconds)
        return not self.backend.running

    async def destroy(self) -> None:
        """Stop serving."""
        await self._stop()
        self._dead = False

    async def metrics(self) -> EngineMetrics:
        """As ``Engine.metrics``."""
        if self._info is None:
            raise _not_running()
        return self.backend.metrics()

    async def _stop(self) -> None:
        self._info = None
        self.app = None
        for task in list(self.backend.running):
            task.cancel()
        if self._server is not None and self._serving is not None:
            self._server.stop(at_once=True)
            await self._serving
        self._server = self._serving = None


def _not_running() -> Unavailable:
    return Unavailable("The engine is not running.", fix="Call ensure first.", code="engine_unreachable")
