"""One metered attempt: reserve, call the engine, relay, settle.

A failed attempt is voided; when the caller leaves, what was used until then is settled.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

import orjson

from graftwork.core.clock import Clock
from graftwork.core.errors import GraftworkError, InvalidRequest, PlatformError, Unavailable
from graftwork.core.ids import uuid7
from graftwork.core.money import MICRO, tokens_cost
from graftwork.core.nouns import Json, Keeping, LedgerEntry
from graftwork.core.states import EntryState
from graftwork.gateway.answers import Relay, failed, whole
from graftwork.gateway.exchange import CallerLeft, Exchange, Header, Watch
from graftwork.gateway.keeper import Keeper, Wanted
from graftwork.gateway.ledger import LedgerWriter
from graftwork.gateway.requests import BYTES_PER_TOKEN, Asked
from graftwork.gateway.resolve import Live, Target
from graftwork.gateway.upstream import Response, UpstreamClient
from graftwork.store import Settlement

ANSWER_LIMIT = 64 * 1024 * 1024
"""Bytes a plain answer may have."""
ERROR_LIMIT = 64 * 1024
_REFUSALS = {
    "context_length_exceeded": "The request is longer than the model's context.",
    "unsupported_parameter": "The model's engine does not support this parameter.",
    "invalid_value": "The model's engine refuses this value.",
}
"""Codes of an engine that are passed on, with our words for them."""


@dataclass(frozen=True, slots=True)
class Price:
    """What tokens of one base model cost, in micro-dollars per million."""

    input: int
    output: int
    version: str

    def cost(self, prompt_tokens: int, completion_tokens: int) -> int:
        """Micro-dollars."""
        return tokens_cost(prompt_tokens, self.input) + tokens_cost(completion_tokens, self.output)


@dataclass(slots=True)
class Attempt:
    """One call of an engine on behalf of a key, and its ledger row."""

    asked: Asked
    target: Target
    price: Price
    project_id: str
    key_id: str
    request_id: str
    id: str = field(default_factory=uuid7)
    """Made here: never an engine's or a caller's id."""
    settled: bool = False
    keeping: Keeping | None = None
    """What the project opted for, where this request is to be kept."""

    @property
    def answer_id(self) -> str:
        """The id the caller sees."""
        return self.asked.route.prefix + self.id.replace("-", "")

    def entry(self, now: float) -> LedgerEntry:
        """The reservation: all that was sent, and all that may come back."""
        prompt, output = self.asked.prompt_tokens, self.asked.output_tokens
        return LedgerEntry(
            key=self.id,
            project_id=self.project_id,
            kind="inference",
            state=EntryState.OPEN,
            amount=self.price.cost(prompt, output),
            quantity={"prompt_tokens": prompt, "completion_tokens": output, "estimated": True},
            price_version=self.price.version,
            refs=self._refs(),
            created_at=now,
        )

    def _refs(self) -> Json:
        return {
            "model": self.target.name,
            "asked": self.asked.model,
            "base": self.target.base,
            "version": self.target.version,
            "weights": self.target.weights,
            "key": self.key_id,
            "request": self.request_id,
            "route": self.asked.route.name,
        }

    def settlement(self, usage: dict[str, int], now: float, *, estimated: bool = False) -> Settlement:
        """What it came to."""
        quantity: Json = dict(usage)
        if estimated:
            quantity["estimated"] = True
        amount = self.price.cost(usage["prompt_tokens"], usage["completion_tokens"])
        return Settlement(key=self.id, amount=amount, quantity=quantity, at=now)

    def headers(self) -> list[Header]:
        """Which weights answered."""
        headers = [(b"x-graftwork-model", _header(self.target.name))]
        if self.target.version is not None:
            headers.append((b"x-graftwork-version", _header(self.target.version)))
        return headers


class Caller:
    """Makes attempts. One per gateway."""

    def __init__(self, ledger: LedgerWriter, upstream: UpstreamClient, clock: Clock, keeper: Keeper) -> None:
        self._keeper = keeper
        self._ledger = ledger
        self._upstream = upstream
        self._clock = clock

    async def attempt(self, exchange: Exchange, attempt: Attempt, live: Live) -> None:
        """Answer one exchange.

        Raises:
            BudgetExceeded: the reservation does not fit the project's budget.
            InvalidRequest: the engine refuses the request.
            PlatformError: the engine failed or cannot be reached; the row is void.
        """
        await self._ledger.reserve(attempt.entry(self._clock.now()))
        try:
            if attempt.asked.stream:
                await self._stream(exchange, attempt, live)
            else:
                await self._whole(exchange, attempt, live)
        finally:
            if not attempt.settled:
                await self._ledger.void(attempt.id)

    async def _settle(self, attempt: Attempt, usage: dict[str, int], *, estimated: bool = False) -> int:
        settlement = attempt.settlement(usage, self._clock.now(), estimated=estimated)
        attempt.settled = True  # from here on the row is never voided: open rows are settled by the sweeper
        await self._ledger.settle(settlement)
        return settlement.amount

    async def _whole(self, exchange: Exchange, attempt: Attempt, live: Live) -> None:
        try:
            async with Watch(exchange.receive), await self._call(attempt, live) as response:
                data = await response.read(ANSWER_LIMIT)
        except CallerLeft:
            used = {"prompt_tokens": attempt.asked.prompt_tokens, "completion_tokens": 0}
            await self._settle(attempt, used, estimated=True)
            return
        body, usage = whole(data, attempt.answer_id, attempt.asked.model)
        cost = await self._settle(attempt, usage)
        price = (b"x-graftwork-cost-usd", b"%d.%06d" % divmod(cost, MICRO))
        await exchange.answer(200, body, [*attempt.headers(), price])
        if attempt.keeping is not None:
            self._keep(attempt, attempt.keeping, body)

    async def _stream(self, exchange: Exchange, attempt: Attempt, live: Live) -> None:
        relay = Relay(attempt.answer_id, attempt.asked.model, wants_usage=attempt.asked.wants_usage)
        headers = attempt.headers()
        pieces: list[bytes] = []
        try:
            async with Watch(exchange.receive), await self._call(attempt, live) as response:
                while data := await response.chunk():
                    if piece := relay.feed(data):
                        await exchange.stream(piece, headers)
                        if attempt.keeping is not None:
                            pieces.append(piece)
                tail = relay.end()
        except CallerLeft:
            counted = relay.usage
            used = counted or {
                "prompt_tokens": attempt.asked.prompt_tokens,
                "completion_tokens": relay.pieces,
            }
            await self._settle(attempt, used, estimated=counted is None)
            return
        await self._settle(attempt, relay.usage or {})
        await exchange.end(tail, headers)
        if attempt.keeping is not None:
            self._keep(attempt, attempt.keeping, b"".join((*pieces, tail)))

    def _keep(self, attempt: Attempt, keeping: Keeping, answer: bytes) -> None:
        """Hand a request that was answered, whole, to the keeper."""
        version, target = attempt.target.version, attempt.target
        names = {
            "model": attempt.asked.model,
            "base": target.base,
            "adapter": None if version is None else version.partition("@")[0],
            "version": version,
            "name": target.name,
        }
        request = {k: v for k, v in attempt.asked.fields.items() if k not in ("stream", "stream_options")}
        wanted = Wanted(
            id=attempt.answer_id,
            keeping=keeping,
            request=request,
            answer=answer,
            streamed=attempt.asked.stream,
            metadata=attempt.asked.metadata,
            identity=names,
            at=self._clock.now(),
            size=len(answer) + BYTES_PER_TOKEN * attempt.asked.prompt_tokens,
        )
        self._keeper.put(wanted)

    async def _call(self, attempt: Attempt, live: Live) -> Response:
        asked = attempt.asked
        body = asked.body(attempt.target.engine_model)
        response = await self._upstream.post(live.url, asked.route.path, body, token=live.token)
        if response.status == 200:
            return response
        async with response:
            raise await _refusal(asked, response)


async def _refusal(asked: Asked, response: Response) -> GraftworkError:
    """An engine's error in our own words; its text stays here, for it may name what tenants must not see."""
    status = response.status
    if status in (400, 413, 422):
        code, param = _reason(await response.read(ERROR_LIMIT), asked)
        return InvalidRequest(
            _REFUSALS.get(code, "The model's engine refuses this request."),
            fix="Check messages, tools and limits against the API reference.",
            code=code,
            param=param,
        )
    if status in (404, 409, 429, 503):
        return Unavailable(
            "The model cannot take this request now.",
            fix="Try again in some seconds.",
            code="model_not_ready" if status == 404 else "overloaded",
            details={"retry_after": 2},
        )
    return failed(f"The engine failed with status {status}.")


def _reason(body: bytes, asked: Asked) -> tuple[str, str | None]:
    try:
        error = orjson.loads(body)["error"]
        code, param = error.get("code"), error.get("param")
    except (orjson.JSONDecodeError, KeyError, TypeError, AttributeError):
        return "request_refused", None
    known = isinstance(code, str) and code in _REFUSALS
    return code if known else "request_refused", param if param in asked.route.checks else None


def _header(text: str) -> bytes:
    """A name as a header value: printable ASCII only."""
    return re.sub(r"[^\x21-\x7e]", "?", text).encode("ascii")


def no_price(base: str) -> PlatformError:
    """A base model is served that the price book does not know."""
    return PlatformError(
        f"The base model {base!r} has no price.", fix="Add it to the price book.", code="price_missing"
    )
