"""``graft dataset synth``: rows from documents or seed rows, through any OpenAI-compatible model."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import orjson
from cyclopts import Parameter

from graftwork.cli.connection import connect, existing_file
from graftwork.cli.files import must_be_new, write_new
from graftwork.cli.output import confirm, put, put_json, say
from graftwork.core.errors import InvalidRequest, Unavailable
from graftwork.core.money import MICRO, dollars, parse_dollars

if TYPE_CHECKING:
    from graftwork.cli.model_client import ModelClient
    from graftwork.data.report import UsableRow
    from graftwork.data.synth.run import Made, Settings
    from graftwork.data.synth.sources import Item


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Judging:
    """Which of the rows that were made are kept.

    Attributes
    ----------
    judge:
        Name of the model that scores each row from 1 to 5; the same model if not given.
    no_judge:
        Keep all rows that are no duplicates.
    threshold:
        Least score of a kept row.
    rubric:
        What the scores mean, in place of our own words; a text, or @FILE.
    near:
        Overlap of texts from which a row is a duplicate.
    """

    judge: str | None = None
    no_judge: bool = False
    threshold: float = 4.0
    rubric: str | None = None
    near: float = 0.8


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Asking:
    """How the model is asked, and for how much at most.

    Attributes
    ----------
    url:
        Base URL of an OpenAI-compatible API, such as https://host/v1; without it, this server.
    api_key_env:
        Name of the environment variable with the key for --url.
    parallel:
        Requests under way at a time.
    per_minute:
        Most requests a minute.
    max_requests:
        Most requests, those of runs before this one included.
    max_cost:
        Most dollars, by --price.
    price:
        Dollars a million tokens, in and out, such as 0.15,0.60.
    """

    url: str | None = None
    api_key_env: str = "OPENAI_API_KEY"
    parallel: int = 4
    per_minute: float | None = None
    max_requests: int | None = None
    max_cost: str | None = None
    price: str | None = None


JUDGED = Judging()
ASKED = Asking()


def synth(
    *documents: str,
    output: Annotated[str, Parameter(name=["--output", "-o"])],
    model: str,
    seeds: str | None = None,
    rows: int = 100,
    per_passage: int = 5,
    instructions: str | None = None,
    judging: Judging = JUDGED,
    asking: Asking = ASKED,
    seed: int = 0,
    yes: Annotated[bool, Parameter(name=["--yes", "-y"])] = False,
    json: bool = False,
) -> int:
    """Make rows from documents, or rows like others, with a model; judge them, and keep the good ones.

    Writes the data set to --output, and where each row came from to NAME.provenance.jsonl. What was
    generated lies in NAME.journal.jsonl: the same command goes on from there after Ctrl-C or a crash.

    Parameters
    ----------
    documents:
        Text and markdown files, or folders of them; with none, rows like those of --seeds are made.
    output:
        The new data set.
    model:
        Name of the model that writes.
    seeds:
        Rows that show what is wanted; none of the new ones is like any of them.
    rows:
        Rows to ask for when they are made from seeds.
    per_passage:
        Rows to ask for of each passage of a document.
    instructions:
        What to write, in place of our own words; a text, or @FILE.
    yes:
        Do not ask before starting.
    """
    from graftwork.data.synth.run import estimate

    target = Path(output)
    must_be_new(target, _provenance(target))
    settings = _settings(model, instructions, judging, asking)
    shown = _seeds(seeds)
    items = _items(documents, shown, rows, per_passage, seed, seeds)
    _confirm(estimate(items, settings), settings, len(items), yes)
    client = _client(asking.url, asking.api_key_env, asking.per_minute)
    return _finish(_run(items, settings, shown, client, target), target, json)


def _settings(model: str, instructions: str | None, judging: Judging, asking: Asking) -> Settings:
    from graftwork.data.synth.run import Settings

    if asking.max_cost is not None and asking.price is None:
        raise InvalidRequest(
            "A cap on cost needs a price.", fix="Give --price IN,OUT in dollars.", code="price_missing"
        )
    if not 0 < judging.near <= 1:
        raise InvalidRequest(
            f"--near {judging.near:g} is no overlap.",
            fix="Give 1, or less but above 0.",
            code="invalid_value",
        )
    return Settings(
        model=model,
        judge=None if judging.no_judge else judging.judge or model,
        threshold=judging.threshold,
        instructions=_text(instructions),
        rubric=_text(judging.rubric),
        near=judging.near,
        parallel=max(1, asking.parallel),
        max_requests=asking.max_requests,
        max_cost=None if asking.max_cost is None else _dollars(asking.max_cost),
        prices=_prices(asking.price),
    )


def _run(
    items: Sequence[Item], settings: Settings, seeds: Sequence[UsableRow], client: ModelClient, target: Path
) -> Made:
    """Ask until all is there; the first Ctrl-C finishes what is under way, the second leaves at once."""
    from graftwork.data.synth.journal import Journal
    from graftwork.data.synth.run import Run
    from graftwork.data.synth.sources import system_of

    plan = {name: value for name, value in asdict(settings).items() if name not in _MAY_CHANGE}
    plan = orjson.loads(orjson.dumps({**plan, "items": [item.id for item in items]}))

    async def work(journal: Journal) -> Made:
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGINT, _interrupted, loop, stop)
        run = Run(
            items,
            settings,
            client.ask,
            journal,
            seeds=[item.row for item in seeds],
            system=system_of(seeds),
            stop=stop,
            tell=_progress,
        )
        try:
            return await run.make()
        finally:
            loop.remove_signal_handler(signal.SIGINT)
            await client.close()

    with Journal(target.with_name(f"{target.stem}.journal.jsonl"), plan) as journal:
        return asyncio.run(work(journal))


_MAY_CHANGE = frozenset({"parallel", "max_requests", "max_cost", "prices", "threshold", "near"})
"""Settings with which a run may be gone on with."""


def _interrupted(loop: asyncio.AbstractEventLoop, stop: asyncio.Event) -> None:
    say("Finishing what is under way; interrupt again to leave it.")
    stop.set()
    loop.remove_signal_handler(signal.SIGINT)


def _progress(text: str) -> None:
    if sys.stderr.isatty():
        sys.stderr.write(f"\r  {text}\x1b[K")
        sys.stderr.flush()


def _finish(made: Made, target: Path, json: bool) -> int:
    """Write the data set when it is whole; say what there is, and how to go on when it is not."""
    counts = made.counts
    if sys.stderr.isatty():
        say()
    say(
        f"  {counts['generated']} rows generated; {counts['duplicates']} duplicates, {counts['below']} below "
        f"the threshold, {counts['unscored']} without a score, {counts['invalid']} invalid; "
        f"{counts['kept']} kept"
    )
    if counts["failed"]:
        say(f"  {counts['failed']} of {counts['items']} requests gave nothing that could be used")
    if not made.complete:
        raise Unavailable(
            f"Not finished: {made.why or 'some requests are still to be made'}. Nothing generated is lost.",
            fix="Give the same command again to go on (with a higher cap, if one was reached).",
            code="not_finished",
        )
    if not made.rows:
        raise InvalidRequest(
            "No row was good enough.", fix="Lower --threshold, or mend --instructions.", code="no_rows"
        )
    aside = b"".join(orjson.dumps(one) + b"\n" for one in made.provenance)
    provenance = _provenance(target)
    write_new({target: made.data, provenance: aside})
    if json:
        put_json({**counts, "file": str(target), "provenance": str(provenance)})
    else:
        put(str(target))
    return 0


def _provenance(target: Path) -> Path:
    return target.with_name(f"{target.stem}.provenance.jsonl")


def _confirm(expected: dict[str, int], settings: Settings, requests: int, yes: bool) -> None:
    """Show the plan, and ask."""
    judged = f", and {expected['requests'] - requests} to judge them" if settings.judge else ""
    tokens = expected["prompt_tokens"], expected["completion_tokens"]
    say(f"  up to {expected['rows']} rows by {settings.model}: {requests} requests to write{judged}")
    say(f"  about {tokens[0]:,} tokens in and {tokens[1]:,} out{_cost(tokens, settings)}")
    caps = [f"{settings.max_requests} requests"] if settings.max_requests is not None else []
    caps += [dollars(settings.max_cost)] if settings.max_cost is not None else []
    if caps:
        say(f"  ends at {' or '.join(caps)}")
    if yes:
        return
    confirm(
        "These requests may cost money and nobody can be asked.",
        "Give --yes, and a cap with --max-requests or --max-cost.",
    )


def _cost(tokens: tuple[int, int], settings: Settings) -> str:
    if settings.prices is None:
        return ""
    micro = sum(count * each for count, each in zip(tokens, settings.prices, strict=True)) // MICRO
    return f", about {dollars(micro)}"


def _seeds(path: str | None) -> tuple[UsableRow, ...]:
    if path is None:
        return ()
    from graftwork.data.workbench import Named, checked

    file = existing_file(path)
    [report] = checked([Named(path, file.read_bytes())])
    return report.usable or ()


def _items(
    documents: Sequence[str], seeds: Sequence[UsableRow], rows: int, each: int, seed: int, name: str | None
) -> list[Item]:
    from graftwork.data.synth.sources import from_documents, from_seeds

    if rows < 1 or each < 1:
        raise InvalidRequest("At least one row must be asked for.", fix="Give a number above 0.")
    if documents:
        return from_documents([Path(document) for document in documents], each)
    if not seeds:
        raise InvalidRequest(
            "There is nothing to make rows from.",
            fix="Name documents, or seed rows with --seeds.",
            code="no_sources",
        )
    return from_seeds(seeds, rows, each, seed, name or "")


def _client(url: str | None, key_name: str, per_minute: float | None) -> ModelClient:
    from graftwork.cli.model_client import ModelClient

    if url is None:
        server = connect()
        return ModelClient(f"{server.url}/v1", server.key, per_minute=per_minute)
    return ModelClient(url, os.environ.get(key_name), per_minute=per_minute)


def _text(given: str | None) -> str | None:
    return existing_file(given[1:]).read_text() if given is not None and given.startswith("@") else given


def _dollars(text: str) -> int:
    try:
        return parse_dollars(text)
    except ValueError as error:
        raise InvalidRequest(f"{error}.", fix="Write 5 or 0.25.", code="invalid_value") from error


def _prices(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    parts = [_dollars(part) for part in text.split(",")]
    if len(parts) != 2:
        raise InvalidRequest(
            f"--price {text!r} is not two amounts.",
            fix="Give IN,OUT such as 0.15,0.60.",
            code="invalid_value",
        )
    return parts[0], parts[1]
