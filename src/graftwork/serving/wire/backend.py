"""What the HTTP side asks of an engine core: tokens in, tokens out.

The core knows no text, no stop strings and no JSON; the HTTP side knows no tensors. The embedded engine
implements ``Backend`` with torch, the fake engine with a script, so both speak exactly the same HTTP.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

from graftwork.core.errors import GraftworkError
from graftwork.serving.port import EngineMetrics

Finish = Literal["stop", "length"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """How one answer is drawn."""

    max_tokens: int
    """Tokens to generate at most; 0 only processes the prompt."""
    temperature: float = 1.0
    """0 is greedy."""
    top_p: float = 1.0
    top_k: int = 0
    """0 is no limit."""
    seed: int | None = None
    """Same seed, same answer, whatever else is in the batch; None draws one."""
    top_logprobs: int | None = None
    """None: no log-probabilities are wanted; else how many alternatives of each token."""
    prompt_logprobs: bool = False
    """Whether the tokens of the prompt are scored as well."""
    ignore_eos: bool = False
    """Generate on to ``max_tokens`` whatever comes; for measurements."""


@dataclass(frozen=True, slots=True)
class Work:
    """One answer to make."""

    model: str
    prompt: Sequence[int]
    sampling: Sampling


@dataclass(frozen=True, slots=True)
class Scored:
    """One token, with natural log-probabilities of the model's own distribution (temperature 1)."""

    id: int
    logprob: float | None = None
    """None for the first token of a prompt, and when none were asked for."""
    top: tuple[tuple[int, float], ...] = ()
    """The likeliest alternatives, likeliest first."""


@dataclass(frozen=True, slots=True)
class Step:
    """News of one work: what one iteration of the engine made of it. ``finish`` or ``error`` end it."""

    tokens: tuple[Scored, ...] = ()
    """Generated tokens; an end-of-turn token is counted in ``generated`` but not given."""
    prompt: tuple[Scored, ...] = ()
    """The scored prompt, once, when ``prompt_logprobs`` was asked for."""
    generated: int = 0
    """Tokens of this step that count as generated."""
    finish: Finish | None = None
    error: GraftworkError | None = None


class Ticket(Protocol):
    """A work in flight."""

    def cancel(self) -> None:
        """End the work and free what it holds at the next iteration. Returns at once; idempotent."""
        ...


class TextStream(Protocol):
    """Text of tokens that come one by one; never a broken character."""

    def push(self, token: int) -> str:
        """The text that ``token`` completes; empty while a character is incomplete."""
        ...

    def finish(self) -> str:
        """What is left, incomplete bytes as U+FFFD."""
        ...


class Codec(Protocol):
    """Text to tokens and back, and the chat template."""

    def render(self, messages: list[dict[str, Any]], tools: list[dict[str, Any]] | None) -> str:
        """The prompt of a chat, up to where the assistant speaks.

        Raises:
            InvalidRequest: the template refuses these messages.
        """
        ...

    def encode(self, text: str, *, special: bool) -> list[int]:
        """Token ids; ``special`` adds what the tokenizer puts around a plain text."""
        ...

    def decode(self, tokens: Sequence[int]) -> str:
        """Text without special tokens."""
        ...

    def piece(self, token: int) -> tuple[str, bytes]:
        """One token as text for people and as its exact bytes."""
        ...

    def stream(self) -> TextStream:
        """A fresh incremental decoder."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Card:
    """A model that answers."""

    name: str
    root: str
    """Where its weights came from: the base model's name, or the adapter's directory."""
    parent: str | None = None
    created: int = 0


class Backend(Protocol):
    """An engine core. All methods are called on the event loop's thread and return at once, but ``load``."""

    @property
    def codec(self) -> Codec:
        """The base model's tokenizer and template."""
        ...

    @property
    def context(self) -> int:
        """Longest prompt and answer together, in tokens."""
        ...

    @property
    def vocabulary(self) -> int:
        """Token ids are below this."""
        ...

    def submit(self, work: Work, sink: Callable[[Step], None]) -> Ticket:
        """Queue a work. ``sink`` is called on this thread for every step, until one ends it; not after
        ``cancel``.

        Raises:
            NotFound: no such model (code ``model_not_found``).
            Unavailable: the queue is full (code ``engine_full``) or the engine drains (code
                ``engine_draining``).
        """
        ...

    def cards(self) -> list[Card]:
        """The models that answer now: the base first."""
        ...

    async def load(self, name: str, directory: Path) -> None:
        """Make an adapter answer to ``name``; see ``Engine.load``."""
        ...

    def unload(self, name: str) -> None:
        """Forget an adapter; running works keep it.

        Raises:
            NotFound: it is not loaded (code ``adapter_not_found``).
        """
        ...

    def drain(self) -> None:
        """Refuse new works from now on."""
        ...

    @property
    def draining(self) -> bool:
        """Whether ``drain`` was called."""
        ...

    def metrics(self) -> EngineMetrics:
        """Gauges and counters."""
        ...
