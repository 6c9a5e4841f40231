"""Measure one model on held-out rows, through the serving path that customers use.

Two things for each row: the log-probability of the right answer's tokens (held-out loss), and the model's own
greedy answer, compared with the right one.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Protocol, TypeVar

import orjson

from graftwork.core.clock import Clock, SystemClock
from graftwork.core.errors import GraftworkError, InvalidData, PlatformError, Unavailable
from graftwork.data.encoding import Encoded
from graftwork.data.lessons import answers
from graftwork.data.rows import Row, answer, fingerprint, kind, question
from graftwork.evals.results import Json, RowResult, Scores
from graftwork.evals.scores import exact_match, is_json, is_json_document, json_match, rouge_l, token_f1

_T = TypeVar("_T")

RETRIES = 5
"""Tries of one request to an engine that is busy or restarting."""
BACKOFF = 0.5
"""Seconds before the second try; doubles each time."""


class ModelClient(Protocol):
    """What an evaluation needs of a serving client; ``serving.client.EngineClient`` is one."""

    async def chat(self, model: str, messages: Sequence[Json], **options: Any) -> Json:
        """A ``chat.completion`` object."""
        ...

    async def complete(self, model: str, prompt: str | Sequence[int], **options: Any) -> Json:
        """A ``text_completion`` object."""
        ...

    async def score(self, model: str, tokens: Sequence[int]) -> list[float | None]:
        """Log-probability of each token given those before it; None for the first."""
        ...


class RowRenderer(Protocol):
    """What an evaluation needs of ``data.Renderer``."""

    def encode(self, row: Row, max_length: int | None = None) -> Encoded:
        """Tokens and loss labels of a row."""
        ...

    def tokenize_raw(self, text: str) -> list[int]:
        """Token ids of a prompt that is not a chat."""
        ...

    def tokenize(self, text: str) -> list[int]:
        """Token ids of a text."""
        ...


def select(rows: Sequence[Row], max_rows: int) -> list[Row]:
    """At most ``max_rows`` of the rows: always the same ones, wherever they stand in the file."""
    chosen = sorted(range(len(rows)), key=lambda index: (fingerprint(rows[index]), index))[:max_rows]
    return [rows[index] for index in sorted(chosen)]


async def evaluate(
    client: ModelClient,
    model: str,
    rows: Sequence[Row],
    renderer: RowRenderer,
    *,
    max_rows: int = 200,
    max_tokens: int = 256,
    concurrency: int = 8,
    max_length: int | None = None,
    label: str | None = None,
    clock: Clock | None = None,
) -> Scores:
    """Scores of a model on canonical rows (chat, prompt/completion or text).

    The last assistant message that is learnt (or the completion) is the right answer; a text row, a row
    without a prompt, and a row cut at ``max_length`` have loss only. Answers are greedy, and may be twice as
    long as the right one plus 32 tokens, at most ``max_tokens``: a longer one is wrong anyway, and a rambling
    base is slow.

    Of a preference the losses of its answers are measured, and no answer is asked for.

    A row that cannot be measured keeps its error in the result. Changes nothing; may be repeated.

    Args:
        client: a client of the engine that serves ``model``.
        model: the engine's name for it.
        rows: canonical held-out rows.
        renderer: of the base model.
        max_rows: measure at most so many (``select``).
        max_tokens: length limit of an answer.
        concurrency: requests in flight at once.
        max_length: rows are cut here, as in training; keep it within the engine's context.
        label: the model's name in the result, if not ``model``.
        clock: waits between tries.

    Raises:
        Unavailable: the engine stayed unreachable or busy; nothing was measured, evaluate again later.
    """
    measuring = _Measuring(client, model, renderer, max_tokens, max_length, clock or SystemClock())
    gate = asyncio.Semaphore(concurrency)

    async def measure(row: Row) -> RowResult:
        async with gate:
            return await measuring.row(row)

    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(measure(row)) for row in select(rows, max_rows)]
    except ExceptionGroup as errors:
        raise errors.exceptions[0] from None  # the others were cancelled, or died of the same
    return Scores(model=label or model, rows=tuple(task.result() for task in tasks))


class _Measuring:
    """One model's evaluation: what stays the same from row to row."""

    def __init__(
        self,
        client: ModelClient,
        model: str,
        renderer: RowRenderer,
        max_tokens: int,
        max_length: int | None,
        clock: Clock,
    ) -> None:
        self.client = client
        self.model = model
        self.renderer = renderer
        self.max_tokens = max_tokens
        self.max_length = max_length
        self.clock = clock

    async def row(self, row: Row) -> RowResult:
        """One row, with its errors; raises only ``Unavailable``."""
        found: dict[str, Any] = {}
        try:
            found["prompt"] = prompt_text(row)
            if kind(row) in ("preference", "feedback"):
                return RowResult(row=fingerprint(row), **found, **await self.answers(row))
            encoded = self.renderer.encode(row, self.max_length)
            found["tokens"] = encoded.labelled
            whole = encoded.length == len(encoded.tokens)
            reference = found["reference"] = reference_text(row) if whole else None
            found["loss"] = await self.loss(encoded)
            if reference is not None:
                given = found["answer"] = await self.answer(row, reference, encoded.length)
                found |= compare(given, reference)
        except Unavailable:
            raise
        except GraftworkError as error:
            found["error"] = f"{error.code}: {error.message}"
        return RowResult(row=fingerprint(row), **found)

    async def answers(self, row: Row) -> dict[str, Any]:
        """Losses of a pair's answers, or of an answer that was wanted or not; nobody is asked to answer."""
        chosen, *rejected = [self.renderer.encode(lesson, self.max_length) for lesson in answers(row)]
        found: dict[str, Any] = {"tokens": chosen.labelled, "loss": await self.loss(chosen)}
        if not rejected:
            return {**found, "wanted": row["label"]}
        (other,) = rejected
        return {**found, "rejected_tokens": other.labelled, "rejected_loss": await self.loss(other)}

    async def loss(self, encoded: Encoded) -> float:
        """Summed negative log-likelihood of the tokens that carry loss."""
        if encoded.labelled == 0:
            return 0.0
        served = await self.patiently(lambda: self.client.score(self.model, encoded.tokens))
        if len(served) != len(encoded.tokens):
            raise PlatformError("The engine scored another number of tokens.", code="score_mismatch")
        wanted = [p for p, label in zip(served[1:], encoded.labels[1:], strict=True) if label]
        known = [p for p in wanted if p is not None and math.isfinite(p)]
        if len(known) < len(wanted):
            raise PlatformError("The engine gave no finite log-probability.", code="score_not_finite")
        return -math.fsum(known)

    async def answer(self, row: Row, reference: str, length: int) -> str:
        """The model's own greedy answer to a row of ``length`` tokens."""
        words = len(self.renderer.tokenize(reference))
        limit = min(self.max_tokens, 2 * words + 32)
        if self.max_length is not None:  # no further than a row may be: the engine refuses what does not fit
            limit = min(limit, self.max_length - length + words)
        options: dict[str, Any] = {"temperature": 0, "max_tokens": max(1, limit)}
        if kind(row) == "completion":
            prompt = self.renderer.tokenize_raw(row["prompt"])
            return spoken(await self.patiently(lambda: self.client.complete(self.model, prompt, **options)))
        messages = [{k: v for k, v in message.items() if k != "weight"} for message in question(row)]
        if row.get("tools"):
            options["tools"] = row["tools"]
        return spoken(await self.patiently(lambda: self.client.chat(self.model, messages, **options)))

    async def patiently(self, ask: Callable[[], Awaitable[_T]]) -> _T:
        """Ask; try again while the engine is busy or restarting."""
        for attempt in range(RETRIES - 1):
            try:
                return await ask()
            except Unavailable:
                await self.clock.sleep(BACKOFF * 2**attempt)
        return await ask()


def compare(given: str, wanted: str) -> dict[str, Any]:
    """Every score of an answer; the JSON ones only where the reference is a JSON document."""
    scores: dict[str, Any] = {
        "exact": exact_match(given, wanted),
        "f1": token_f1(given, wanted),
        "rouge_l": rouge_l(given, wanted),
    }
    if is_json_document(wanted):
        scores |= {"json_valid": is_json(given), "json_match": json_match(given, wanted)}
    return scores


def reference_text(row: Row) -> str | None:
    """The right answer of a row: words, or tool calls as JSON; None for a row that asks nothing.

    Raises:
        InvalidData: the row has no answer to compare with.
    """
    match kind(row):
        case "completion":
            return answer(row) if row["prompt"] else None
        case "chat":
            asked = question(row)
            calls = row["messages"][len(asked)].get("tool_calls")
            return None if not asked else calls_text(calls) if calls else answer(row)
        case "text":
            return None
        case "preference" | "feedback":
            raise InvalidData("A preference row has no single right answer.", code="method_mismatch")


def prompt_text(row: Row) -> str:
    """What a row asks, for people: the prompt, or the last message before the answer."""
    match kind(row):
        case "completion":
            return str(row["prompt"])
        case "chat":
            asked = question(row)
            return str(asked[-1].get("content") or "") if asked else ""
        case "preference" | "feedback":
            return str(row["input"]["messages"][-1].get("content") or "")
        case _:
            return ""


def spoken(completion: Json) -> str:
    """The text of an OpenAI completion object (chat or plain); tool calls as JSON.

    Raises:
        PlatformError: it is no such object.
    """
    try:
        choice = completion["choices"][0]
        if "message" not in choice:
            return str(choice["text"])
        calls = choice["message"].get("tool_calls")
        return calls_text(calls) if calls else str(choice["message"].get("content") or "")
    except (KeyError, IndexError, TypeError) as error:
        raise PlatformError("The engine's answer is no completion.", code="answer_malformed") from error


def calls_text(calls: Sequence[Json]) -> str:
    """Tool calls as one JSON text: names and arguments, without ids and spelling."""
    plain: list[Json] = []
    for call in calls:
        arguments = call["function"].get("arguments")
        if isinstance(arguments, str) and is_json(arguments):
            arguments = orjson.loads(arguments)
        plain.append({"name": call["function"]["name"], "arguments": arguments})
    return orjson.dumps(plain, option=orjson.OPT_SORT_KEYS).decode()
