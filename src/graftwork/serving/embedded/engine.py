"""The embedded engine as a ``Backend``: requests in from the event loop, one compute thread, news back."""

from __future__ import annotations

import asyncio
import logging
import random
import secrets
import threading
import time
from collections.abc import Callable
from pathlib import Path

from graftwork.core.errors import Conflict, NotFound, Unavailable
from graftwork.serving.embedded.adapters import Adapter, read_adapter
from graftwork.serving.embedded.loop import Loop
from graftwork.serving.embedded.model import BaseModel
from graftwork.serving.embedded.scheduler import Limits, Sequence
from graftwork.serving.port import BASE, EngineMetrics
from graftwork.serving.wire.app import model_not_found
from graftwork.serving.wire.backend import Card, Step, Ticket, Work
from graftwork.serving.wire.codec import TokenizerCodec

_log = logging.getLogger(__name__)

Sink = Callable[[Step], None]


class EmbeddedBackend:
    """One base model with many adapters, in this process.

    Args:
        model: the base model; from now on used by this engine's thread alone.
        codec: its tokenizer and template.
        name: the base model's name for people.
        limits: how much to take on. A cache smaller than the model's context shortens the context.
        on_death: called on the compute thread if it ends by an error of ours.
    """

    def __init__(
        self,
        model: BaseModel,
        codec: TokenizerCodec,
        name: str,
        limits: Limits,
        on_death: Callable[[], None] = lambda: None,
    ) -> None:
        self.codec = codec
        self.context = min(model.context, limits.kv_tokens)
        self.vocabulary = model.vocabulary
        self.draining = False
        self._model = model
        self._name = name
        self._limits = limits
        self._loop = Loop(model, limits, codec.eos_ids)
        self._adapters: dict[str, Adapter] = {}
        self._loading: dict[str, asyncio.Lock] = {}
        self._created = int(time.time())
        self._requests = 0
        self._inbox: list[Sequence] = []
        self._wake = threading.Condition()
        self._ending = False
        self._on_death = on_death
        self._events = asyncio.get_running_loop()
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self._thread.start()

    def cards(self) -> list[Card]:
        """The base, then the adapters in the order they were loaded."""
        loaded = [
            Card(name=a.name, root=str(a.directory), parent=BASE, created=self._created)
            for a in self._adapters.values()
        ]
        return [Card(name=BASE, root=self._name, created=self._created), *loaded]

    def submit(self, work: Work, sink: Sink) -> Ticket:
        """Queue a work; see ``Backend.submit``."""
        adapter = self._adapters.get(work.model)
        if adapter is None and work.model != BASE:
            raise model_not_found(work.model)
        if self.draining:
            raise Unavailable(
                "The engine is draining.", fix="Try again in some seconds.", code="engine_draining"
            )
        if self._waiting() >= self._limits.max_waiting:
            raise Unavailable(
                f"{self._limits.max_waiting} requests are waiting already.",
                fix="Try again in some seconds.",
                code="engine_full",
            )
        seed = secrets.randbits(64) if work.sampling.seed is None else work.sampling.seed
        sequence = Sequence(
            model=work.model,
            adapter=adapter,
            tokens=list(work.prompt),
            prompt=len(work.prompt),
            sampling=work.sampling,
            chance=random.Random(seed),
            sink=sink,
        )
        self._requests += 1
        with self._wake:
            self._inbox.append(sequence)
            self._wake.notify()
        return sequence

    def _waiting(self) -> int:
        return len(self._inbox) + self._loop.scheduler.waiting

    async def load(self, name: str, directory: Path) -> None:
        """Read and check the adapter beside the running requests, then let it answer; see ``Engine.load``."""
        async with self._loading.setdefault(name, asyncio.Lock()):
            taken = self._adapters.get(name)
            if name == BASE or (taken is not None and taken.directory != directory):
                owner = "the base model" if taken is None else taken.directory
                raise Conflict(
                    f"The name {name!r} is taken by {owner}.",
                    fix="Names are content digests: load other weights under another name.",
                    code="adapter_conflict",
                    param="name",
                )
            if taken is None:
                self._adapters[name] = await asyncio.to_thread(
                    read_adapter,
                    name,
                    directory,
                    self._model.adaptable,
                    self._model.dtype,
                    self._model.device,
                )

    def unload(self, name: str) -> None:
        """Forget an adapter; its running sequences keep it."""
        if self._adapters.pop(name, None) is None:
            raise NotFound(f"The adapter {name!r} is not loaded.", code="adapter_not_found", param="name")

    def drain(self) -> None:
        """Refuse new works."""
        self.draining = True

    def metrics(self) -> EngineMetrics:
        """Gauges and counters."""
        scheduler, totals = self._loop.scheduler, self._loop.totals
        return EngineMetrics(
            running=len(scheduler.running),
            waiting=self._waiting(),
            kv_tokens_used=scheduler.reserved,
            kv_tokens_total=self._limits.kv_tokens,
            prompt_tokens=totals.prompt_tokens,
            generated_tokens=totals.generated_tokens,
            requests=self._requests,
            generated_by_model=dict(totals.by_model),
        )

    async def close(self) -> None:
        """End the compute thread; running requests get no further news."""
        with self._wake:
            self._ending = True
            self._wake.notify()
        await asyncio.to_thread(self._thread.join)

    def _run(self) -> None:
        """The compute thread."""
        try:
            while self._take_in():
                news = self._loop.iterate()
                if news:
                    self._events.call_soon_threadsafe(self._deliver, news)
        finally:
            if not self._ending:
                _log.critical("the compute thread died")
                self._on_death()

    def _take_in(self) -> bool:
        """Wait for something to do and take new works in. False at the end."""
        with self._wake:
            while not (self._inbox or self._loop.scheduler.busy or self._ending):
                self._model.mixer.forget(set(self._adapters.values()))
                self._wake.wait()
            arrived, self._inbox = self._inbox, []
        for sequence in arrived:
            self._loop.scheduler.add(sequence)
        return not self._ending

    def _deliver(self, news: list[tuple[Sequence, Step]]) -> None:
        """On the event loop: hand each step to its request."""
        for sequence, step in news:
            # Only this thread cancels, so nothing is told after it.
            if not sequence.cancelled:
                sequence.sink(step)
