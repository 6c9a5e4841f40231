"""One run: requests for rows, duplicates dropped, scores, and a validated file with its provenance aside."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from graftwork.core.errors import GraftworkError
from graftwork.data.dedup import dedup
from graftwork.data.near import Index, text_of
from graftwork.data.report import UsableRow
from graftwork.data.rows import Row, canonical
from graftwork.data.synth.journal import Journal
from graftwork.data.synth.prompts import Unusable, ask_for, ask_to_grade, pairs_of, score_of
from graftwork.data.synth.sources import Item, key_of
from graftwork.data.validation import validate

T = TypeVar("T")
TRIES = 3
"""Requests for one thing whose answers cannot be used."""


@dataclass(frozen=True, slots=True)
class Reply:
    """What a model answered: its words, whether they were cut off, and its tokens."""

    text: str
    cut_off: bool
    usage: dict[str, int]


Ask = Callable[[str, list[dict[str, str]]], Awaitable[Reply]]
"""Asks a model (its name, messages). Retries what may pass; raises what will not."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """How rows are made and chosen.

    Attributes:
        model, judge: names of the models; no judge keeps every row.
        threshold: least score of a kept row.
        instructions, rubric: in place of our own.
        near: overlap from which a row is a duplicate of a seed or of another.
        parallel: requests under way at a time.
        max_requests: of all runs together; None is no cap.
        max_cost, prices: most micro-dollars, at so many micro-dollars a million (prompt, completion) tokens.
    """

    model: str
    judge: str | None = None
    threshold: float = 4.0
    instructions: str | None = None
    rubric: str | None = None
    near: float = 0.8
    parallel: int = 4
    max_requests: int | None = None
    max_cost: int | None = None
    prices: tuple[int, int] | None = None


class Stop(Protocol):
    """Says whether to begin nothing more: what is under way is finished and kept."""

    def is_set(self) -> bool:
        """Whether to stop."""
        ...


@dataclass(frozen=True, slots=True)
class Made:
    """Rows with their provenance, line by line, and what became of everything.

    Attributes:
        complete: whether nothing was left to ask; False when stopped or at a cap.
        counts: items, failed, generated, duplicates, unscored, below, invalid, kept.
    """

    rows: tuple[Row, ...]
    provenance: tuple[dict[str, Any], ...]
    complete: bool
    counts: dict[str, int]
    why: str = ""

    @property
    def data(self) -> bytes:
        """The rows as canonical JSON lines."""
        return canonical(self.rows)


class Run:
    """Makes rows. What was got is in the journal before the next thing is asked."""

    def __init__(
        self,
        items: Sequence[Item],
        settings: Settings,
        ask: Ask,
        journal: Journal,
        *,
        seeds: Sequence[Row] = (),
        system: str | None = None,
        stop: Stop | None = None,
        tell: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._items = items
        self._set = settings
        self._ask = ask
        self._journal = journal
        self._seeds = seeds
        self._system = system
        self._stop = stop
        self._tell = tell
        self._under_way = 0
        self.stopped = ""

    async def make(self) -> Made:
        """Ask for what is missing, and put together what there is."""
        left = [item for item in self._items if item.id not in self._journal.items]
        await self._each(left, self._generate, "passages and seeds")
        fresh, duplicates = self._fresh()
        if self._set.judge is not None:
            unknown = [one for one in fresh if key_of(one[0]) not in self._journal.scores]
            await self._each(unknown, self._grade, "rows judged")
        return self._put_together(fresh, duplicates)

    async def _each(self, things: Sequence[T], work: Callable[[T], Awaitable[None]], what: str) -> None:
        """Work on all, some at a time; the first error ends it, after what is under way."""
        waiting = iter(things)
        done = 0
        failures: list[GraftworkError] = []

        async def worker() -> None:
            nonlocal done
            for thing in waiting:
                if failures or self._may_not():
                    return
                try:
                    await work(thing)
                except GraftworkError as error:
                    failures.append(error)
                    return
                done += 1
                self._tell(f"{done} of {len(things)} {what}")

        async with asyncio.TaskGroup() as group:
            for _ in range(min(self._set.parallel, len(things))):
                group.create_task(worker())
        if failures:
            raise failures[0]

    async def _generate(self, item: Item) -> None:
        """Rows of one item; an item that gives none after some tries is noted as failed."""
        why = ""
        for _ in range(TRIES):
            if self._may_not():
                return
            reply = await self._request(self._set.model, ask_for(item, self._set.instructions))
            try:
                if reply.cut_off:
                    raise Unusable("the answer was cut off")
                pairs = pairs_of(reply.text, item.count)
            except Unusable as error:
                why = str(error)
                continue
            self._journal.item(item.id, {"rows": pairs})
            return
        self._journal.item(item.id, {"failed": why})

    async def _grade(self, one: tuple[Row, Item]) -> None:
        row, item = one
        question, answer = _words(row)
        messages = ask_to_grade(question, answer, item.passage, self._set.rubric)
        for _ in range(TRIES):
            if self._may_not():
                return
            reply = await self._request(self._set.judge or "", messages)
            try:
                self._journal.score(key_of(row), score_of(reply.text))
            except Unusable:
                continue
            return
        self._journal.score(key_of(row), None)

    async def _request(self, model: str, messages: list[dict[str, str]]) -> Reply:
        self._under_way += 1
        try:
            reply = await self._ask(model, messages)
        finally:
            self._under_way -= 1
        self._journal.paid(reply.usage)
        return reply

    def _may_not(self) -> bool:
        """Whether nothing more may be asked; notes why."""
        spent = self._journal.spent
        if self._stop is not None and self._stop.is_set():
            self.stopped = "it was interrupted"
        elif self._set.max_requests is not None and (
            spent["requests"] + self._under_way >= self._set.max_requests
        ):
            self.stopped = f"the cap of {self._set.max_requests} requests is reached"
        elif self._set.max_cost is not None and self._cost(1 + self._under_way) > self._set.max_cost:
            self.stopped = "the next request could pass the cap on cost"
        return bool(self.stopped)

    def _cost(self, more: int = 0) -> float:
        """Micro-dollars so far, and of so many more requests like the mean of those before."""
        prompt, completion = self._set.prices or (0, 0)
        spent = self._journal.spent
        so_far = (spent["prompt_tokens"] * prompt + spent["completion_tokens"] * completion) / 1e6
        return so_far * (1 + more / max(spent["requests"], 1))

    def _fresh(self) -> tuple[list[tuple[Row, Item]], int]:
        """Rows that are like no seed and no row before them; and how many were."""
        index = Index(self._set.near)
        for number, seed in enumerate(self._seeds):
            index.add(-1 - number, text_of(seed))
        asked = {key for seed in self._seeds if (key := _words(seed)[0].casefold())}
        fresh: list[tuple[Row, Item]] = []
        duplicates = 0
        for item in self._items:
            for question, answer in self._journal.items.get(item.id, {}).get("rows", ()):
                row = self._row(question, answer)
                text = text_of(row)
                if question.casefold() in asked or next(index.near(text), None) is not None:
                    duplicates += 1
                    continue
                asked.add(question.casefold())
                index.add(len(fresh), text)
                fresh.append((row, item))
        return fresh, duplicates

    def _row(self, question: str, answer: str) -> Row:
        head = [{"role": "system", "content": self._system}] if self._system else []
        said = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
        return {"messages": [*head, *said]}

    def _put_together(self, fresh: list[tuple[Row, Item]], duplicates: int) -> Made:
        scores = self._journal.scores
        judged = [(row, item, scores.get(key_of(row))) for row, item in fresh]
        if self._set.judge is not None:
            good = [one for one in judged if one[2] is not None and one[2] >= self._set.threshold]
        else:
            good = judged
        rows, kept = _valid([row for row, _, _ in good])
        aside = tuple(
            {
                "row": line,
                **good[at][1].origin,
                "item": good[at][1].id,
                "model": self._set.model,
                "judge": self._set.judge,
                "score": good[at][2],
            }
            for line, at in enumerate(kept, 1)
        )
        results = [self._journal.items.get(item.id) for item in self._items]
        unscored = sum(score is None for _, _, score in judged) if self._set.judge else 0
        counts = {
            "items": len(self._items),
            "failed": sum(result is not None and "failed" in result for result in results),
            "generated": len(fresh) + duplicates,
            "duplicates": duplicates,
            "unscored": unscored,
            "below": len(fresh) - unscored - len(good) if self._set.judge else 0,
            "invalid": len(good) - len(rows),
            "kept": len(rows),
        }
        complete = not self.stopped and None not in results
        return Made(tuple(rows), aside, complete, counts, self.stopped)


def _valid(rows: Sequence[Row]) -> tuple[list[Row], list[int]]:
    """Rows the validator takes, and their places."""
    if not rows:
        return [], []
    report = validate(canonical(rows), filename="synth.jsonl", purpose="any")
    usable = report.usable or ()
    kept = dedup([UsableRow(item.line, item.row) for item in usable], None).kept
    return [item.row for item in kept], [item.line - 1 for item in kept]


def _words(row: Row) -> tuple[str, str]:
    """The last question and answer of a row."""
    if "messages" not in row:
        return str(row.get("prompt", "")), str(row.get("completion", ""))
    said: dict[str, str] = {}
    for message in row["messages"]:
        said[message["role"]] = str(message.get("content") or "")
    return said.get("user", ""), said.get("assistant", "")


def estimate(items: Iterable[Item], settings: Settings) -> dict[str, int]:
    """Requests and tokens a run will take at most, about (four characters a token, 150 tokens an answer)."""
    listed = list(items)
    rows = sum(item.count for item in listed)
    asked = sum(
        len(message["content"]) for item in listed for message in ask_for(item, settings.instructions)
    )
    sources = sum(len(item.passage) * item.count for item in listed)
    judged = rows if settings.judge else 0
    prompt = asked // 4 + (judged * 350 + sources // 4 if judged else 0)
    completion = 150 * rows + 12 * judged
    return {
        "rows": rows,
        "requests": len(listed) + judged,
        "prompt_tokens": prompt,
        "completion_tokens": completion,
    }
