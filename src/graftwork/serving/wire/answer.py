"""From tokens to text: one answer's pieces, with stop strings, tool calls, log-probabilities and counts."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from graftwork.serving.wire.backend import Backend, Codec, Scored, Step, Ticket, Work
from graftwork.serving.wire.stops import StopMatcher, ToolSplitter

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Entry:
    """One token with its log-probability, and where its text begins in the answer."""

    token: Scored
    offset: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """What one step adds to one choice."""

    index: int
    text: str = ""
    entries: tuple[Entry, ...] = ()
    prompt: tuple[Scored, ...] = ()
    tool_calls: tuple[Json, ...] = ()
    finish: str | None = None


@dataclass(slots=True)
class Counts:
    """Tokens of one request so far."""

    prompt: int
    generated: int = 0

    def json(self) -> Json:
        """OpenAI's ``usage``."""
        return {
            "prompt_tokens": self.prompt,
            "completion_tokens": self.generated,
            "total_tokens": self.prompt + self.generated,
        }


@dataclass(slots=True)
class _Log:
    """Entries of tokens whose text is not out yet; those behind a stop string never come out."""

    wanted: bool
    waiting: list[Entry] = field(default_factory=list)

    def take(self, shown: int | None) -> tuple[Entry, ...]:
        """Entries whose text begins before ``shown`` (None: all)."""
        count = 0
        while count < len(self.waiting) and (shown is None or self.waiting[count].offset < shown):
            count += 1
        out, self.waiting = tuple(self.waiting[:count]), self.waiting[count:]
        return out


class Choice:
    """One choice of an answer, fed with steps."""

    def __init__(
        self, index: int, codec: Codec, stops: tuple[str, ...], *, logprobs: bool, tools: bool
    ) -> None:
        self.index = index
        self.ended = False
        self._text = codec.stream()
        self._stop = StopMatcher(stops)
        self._tools = ToolSplitter() if tools else None
        self._log = _Log(logprobs)
        self._decoded = 0
        self._passed = 0

    def feed(self, step: Step, counts: Counts) -> Piece:
        """What ``step`` adds. Raises the step's error. Ends at the step's end or at a stop string."""
        if step.error is not None:
            self.ended = True
            raise step.error
        words = ""
        for token in step.tokens:
            if self._log.wanted:
                self._log.waiting.append(Entry(token, self._decoded))
            words += self._pass(self._text.push(token.id))
            if self._stop.stopped:
                break
        counts.generated += step.generated
        finish: str | None = step.finish
        if self._stop.stopped:
            finish = "stop"
        elif finish is not None:
            words += self._pass(self._text.finish())
            if self._stop.stopped:
                finish = "stop"
            else:
                rest = self._stop.finish()
                self._passed += len(rest)
                words += rest
        self.ended = finish is not None
        return self._piece(words, step.prompt, finish)

    def _pass(self, text: str) -> str:
        self._decoded += len(text)
        shown = self._stop.push(text)
        self._passed += len(shown)
        return shown

    def _piece(self, words: str, prompt: tuple[Scored, ...], finish: str | None) -> Piece:
        calls: list[Json] = []
        if self._tools is not None:
            words = self._tools.push(words)
            if finish is not None:
                rest, calls = self._tools.finish()
                words += rest
                finish = "tool_calls" if calls else finish
        # With every word out, tokens without text of their own (of an unfinished character) are out as well.
        whole = finish is not None and not self._stop.stopped
        return Piece(
            index=self.index,
            text=words,
            entries=self._log.take(None if whole else self._passed),
            prompt=prompt,
            tool_calls=tuple(calls),
            finish=finish,
        )


class Answer:
    """All choices of one request: submitted together, cancelled together.

    Args:
        works: one for each choice, in order of their index.

    Raises:
        NotFound, Unavailable: as ``Backend.submit``; nothing is left queued then.
    """

    def __init__(self, backend: Backend, works: Sequence[Work], choices: list[Choice], prompt: int) -> None:
        self.counts = Counts(prompt)
        self._choices = choices
        self._news: asyncio.Queue[tuple[int, Step]] = asyncio.Queue()
        self._tickets: list[Ticket] = []
        try:
            for index, work in enumerate(works):
                self._tickets.append(backend.submit(work, self._sink(index)))
        except BaseException:
            self.cancel()
            raise

    def _sink(self, index: int) -> _Sink:
        return _Sink(index, self._news)

    def cancel(self) -> None:
        """End whatever still runs."""
        for ticket in self._tickets:
            ticket.cancel()

    async def pieces(self) -> AsyncIterator[Piece]:
        """Pieces of all choices as they come, until the last has finished.

        Whoever reads them calls ``cancel`` at the end, however that comes: a generator that was never
        begun, or is abandoned, cannot clean up after itself in time.
        """
        open_choices = len(self._choices)
        while open_choices:
            index, step = await self._news.get()
            choice = self._choices[index]
            if choice.ended:
                continue
            piece = choice.feed(step, self.counts)
            if choice.ended:
                open_choices -= 1
                self._tickets[index].cancel()
            if piece.text or piece.entries or piece.prompt or piece.tool_calls or piece.finish:
                yield piece


@dataclass(frozen=True, slots=True)
class _Sink:
    index: int
    news: asyncio.Queue[tuple[int, Step]]

    def __call__(self, step: Step) -> None:
        self.news.put_nowait((self.index, step))
