"""The request path as a bare ASGI application: authenticate, check, resolve, reserve, relay, settle."""

from __future__ import annotations

import logging
import secrets
from dataclasses import dataclass, field

from graftwork.core.clock import Clock, SystemClock
from graftwork.core.errors import GraftworkError, MethodNotAllowed, NotFound, Unauthorized
from graftwork.core.keys import key_matches, parse_key
from graftwork.core.nouns import Keeping
from graftwork.gateway.calls import Attempt, Caller, Price, no_price
from graftwork.gateway.exchange import CallerLeft, Exchange, Receive, Scope, Send, Watch
from graftwork.gateway.keeper import Keeper, Redact, keeps
from graftwork.gateway.ledger import LedgerWriter
from graftwork.gateway.requests import BODY_LIMIT, CHAT, ROUTES, Asked, parse
from graftwork.gateway.resolve import Learn, Resolver, Target
from graftwork.gateway.snapshot import Snapshots
from graftwork.gateway.upstream import Timeouts, UpstreamClient
from graftwork.store import Store
from graftwork.store.snapshot import KeyEntry

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Authenticated:
    """Who is calling."""

    project_id: str
    key_id: str


@dataclass(frozen=True, slots=True)
class GatewaySettings:
    """What may differ between installations.

    Attributes:
        engine: kind of engine asked for when a base model has no endpoint yet.
        patience: seconds a request waits for a model that is not ready.
        poll: seconds between looks at the store's generation.
        timeouts: of calls to engines.
        redact: what may be kept of a request that a project opted to keep; after our own redaction.
    """

    engine: str = "embedded"
    patience: float = 30.0
    poll: float = 0.2
    timeouts: Timeouts = field(default_factory=Timeouts)
    redact: Redact | None = None


def new_request_id() -> str:
    """What ``x-request-id`` carries."""
    return f"req_{secrets.token_hex(16)}"


class Gateway:
    """ASGI application for ``/v1/chat/completions`` and ``/v1/completions``.

    Between ``start`` and ``stop`` it answers; both may be left to the ASGI lifespan.
    """

    def __init__(
        self,
        store: Store,
        *,
        pepper: bytes,
        clock: Clock | None = None,
        settings: GatewaySettings | None = None,
        learn: Learn | None = None,
    ) -> None:
        """Args: ``learn`` makes a base model known that has no price yet; without it there are none."""
        settings = settings or GatewaySettings()
        self._pepper = pepper
        self._clock = clock or SystemClock()
        self._snapshots = Snapshots(store, interval=settings.poll)
        self._resolver = Resolver(
            store, self._snapshots, engine=settings.engine, patience=settings.patience, learn=learn
        )
        self._ledger = LedgerWriter(store, self._cap)
        self._upstream = UpstreamClient(settings.timeouts)
        self._keeper = Keeper(store, settings.redact)
        self._caller = Caller(self._ledger, self._upstream, self._clock, self._keeper)

    async def start(self) -> None:
        """Read the first snapshot and keep it fresh."""
        await self._snapshots.start()

    async def stop(self) -> None:
        """Write what is still to be written, and close."""
        await self._snapshots.stop()
        await self._ledger.close()
        await self._keeper.close()
        self._upstream.close()

    async def refresh(self) -> None:
        """Return when every change committed before this call is in force: revoked keys, moved aliases."""
        await self._snapshots.refresh()

    async def authenticate(self, authorization: bytes | None) -> Authenticated:
        """Who holds the key of an ``Authorization`` header.

        Raises:
            Unauthorized: no key, malformed, not ours, revoked or expired.
        """
        if authorization is None:
            raise _unauthorized("No API key was sent.", code="missing_api_key")
        scheme, _, text = authorization.partition(b" ")
        parts = parse_key(text.strip().decode("latin-1")) if scheme.lower() == b"bearer" else None
        if parts is None:
            raise _unauthorized("The API key is malformed.")
        key = self._snapshots.current.keys.get(parts.lookup)
        if key is None:
            await self._snapshots.after_miss()
            key = self._snapshots.current.keys.get(parts.lookup)
        if key is None or not key_matches(parts.secret, key.digest, self._pepper) or self._expired(key):
            raise _unauthorized("The API key is not valid: unknown, revoked or expired.")
        self._snapshots.used(key.id)
        return Authenticated(key.project_id, key.id)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one ASGI connection."""
        if scope["type"] == "lifespan":
            await self._lifespan(receive, send)
            return
        exchange = Exchange(scope, receive, send, new_request_id())
        try:
            await self._serve(exchange)
        except CallerLeft:
            pass
        except GraftworkError as error:
            await exchange.fail(error)
        except Exception:
            log.exception("request %s failed", exchange.request_id)
            await exchange.fail(GraftworkError("The server failed on this request.", fix="Try again."))

    async def _serve(self, exchange: Exchange) -> None:
        route = ROUTES.get(exchange.scope["path"])
        if route is None:
            raise NotFound("There is no such URL.", fix="Check the path.", code="unknown_url")
        if exchange.scope["method"] != "POST":
            raise MethodNotAllowed(f"{route.path} takes POST only.", fix="Send POST.")
        who = await self.authenticate(exchange.header(b"authorization"))
        asked = parse(route, await exchange.body(BODY_LIMIT))
        target = await self._resolver.target(who.project_id, asked.model)
        price = self._price(target)
        live = self._resolver.now(target)
        if live is None:
            async with Watch(exchange.receive):  # nobody waits for a caller who has left
                live = await self._resolver.ready(who.project_id, target)
        attempt = Attempt(asked, target, price, who.project_id, who.key_id, exchange.request_id)
        attempt.keeping = self._keeping(asked, who.project_id)
        await self._caller.attempt(exchange, attempt, live)

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        while True:
            message = await receive()
            if message["type"] == "lifespan.startup":
                await self.start()
                await send({"type": "lifespan.startup.complete"})
            else:
                await self.stop()
                await send({"type": "lifespan.shutdown.complete"})
                return

    def _cap(self, project_id: str) -> int | None:
        project = self._snapshots.current.projects.get(project_id)
        return None if project is None else project.budget

    def _keeping(self, asked: Asked, project_id: str) -> Keeping | None:
        """What the project opted for, if this request is to be kept."""
        project = self._snapshots.current.projects.get(project_id)
        keeping = None if project is None or asked.route is not CHAT else project.keeping
        return keeping if keeps(keeping, asked.store) else None

    def _expired(self, key: KeyEntry) -> bool:
        return key.expires_at is not None and key.expires_at <= self._clock.now()

    def _price(self, target: Target) -> Price:
        book = self._snapshots.current.prices
        price = book.get("models", {}).get(target.base)
        if price is None:
            raise no_price(target.base)
        return Price(price["input"], price["output"], book["version"])


def _unauthorized(message: str, code: str | None = None) -> Unauthorized:
    return Unauthorized(
        message,
        fix="Send 'Authorization: Bearer gw_…' with a key of this server; 'graft key create' makes one.",
        code=code,
    )
