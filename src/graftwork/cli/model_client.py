"""A client of any server that speaks OpenAI's chat API: patient with what may pass, plain about the rest."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import Any

import httpx

from graftwork.core.errors import InvalidRequest, PlatformError, Unauthorized, Unavailable
from graftwork.data.synth.run import Reply

TRIES = 8
"""Attempts of one request; with the pauses between them about four minutes."""
_LONGEST = 60.0
_PASSING = {408, 409, 425, 429, 500, 502, 503, 504, 529}
Sleep = Callable[[float], Awaitable[None]]


class ModelClient:
    """Asks models. Refusals that may pass are tried again, later each time; ``Retry-After`` is obeyed."""

    def __init__(
        self,
        url: str,
        key: str | None,
        *,
        per_minute: float | None = None,
        max_tokens: int = 4096,
        temperature: float = 0.8,
        timeout: float = 180.0,
        sleep: Sleep = asyncio.sleep,
    ) -> None:
        """``url`` is what the openai SDK calls ``base_url``, such as ``https://host/v1``."""
        headers = {"authorization": f"Bearer {key}"} if key else {}
        self._url = url.rstrip("/")
        self._http = httpx.AsyncClient(
            headers=headers, timeout=httpx.Timeout(timeout, connect=10.0), trust_env=False
        )
        self._gap = 60.0 / per_minute if per_minute else 0.0
        self._options = {"max_tokens": max_tokens, "temperature": temperature}
        self._sleep = sleep
        self._next = 0.0
        self._jitter = random.Random(0)

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def ask(self, model: str, messages: list[dict[str, str]]) -> Reply:
        """One answer.

        Raises:
            Unauthorized: the key is refused. InvalidRequest: the request is. Unavailable: the server did not
            answer, or was busy, ``TRIES`` times.
        """
        body = {"model": model, "messages": messages, **self._options}
        why = ""
        for attempt in range(TRIES):
            await self._turn()
            wait = min(_LONGEST, 2.0**attempt) * (0.5 + self._jitter.random() / 2)
            try:
                answer = await self._http.post(f"{self._url}/chat/completions", json=body)
            except httpx.TransportError as error:
                why = type(error).__name__
            else:
                if answer.status_code == 200:
                    reply = _reply(answer)
                    if reply is not None:
                        return reply
                    why = "an answer that is no chat completion"
                elif answer.status_code in _PASSING:
                    why = f"status {answer.status_code}"
                    wait = _asked_to_wait(answer) or wait
                else:
                    raise _refused(answer, self._url)
            if attempt + 1 < TRIES:
                await self._sleep(wait)
        raise Unavailable(
            f"The model's server at {self._url} failed {TRIES} times ({why}).",
            fix="Try again later: what was made so far is kept, and is gone on with.",
            code="model_server_failed",
        )

    async def _turn(self) -> None:
        """Wait for this request's turn, so that there are no more than so many a minute."""
        if not self._gap:
            return
        now = asyncio.get_running_loop().time()
        mine = max(now, self._next)
        self._next = mine + self._gap
        if mine > now:
            await self._sleep(mine - now)


def _reply(answer: httpx.Response) -> Reply | None:
    """The reply of an answer; None when it is none (half a body, another JSON)."""
    try:
        body: Any = answer.json()
        choice = body["choices"][0]
        text = choice["message"].get("content") or ""
        usage = body.get("usage") or {}
        counts = {name: int(usage.get(name) or 0) for name in ("prompt_tokens", "completion_tokens")}
        return Reply(str(text), choice.get("finish_reason") == "length", counts)
    except (ValueError, KeyError, IndexError, TypeError, AttributeError):
        return None


def _asked_to_wait(answer: httpx.Response) -> float | None:
    try:
        return min(_LONGEST * 2, max(0.0, float(answer.headers.get("retry-after", ""))))
    except ValueError:
        return None


def _refused(answer: httpx.Response, url: str) -> InvalidRequest | Unauthorized | PlatformError:
    try:
        said = str(answer.json()["error"]["message"])[:300]
    except (ValueError, KeyError, TypeError):
        said = answer.text[:300]
    text = f"The model's server at {url} says no ({answer.status_code}): {said}"
    if answer.status_code in (401, 403):
        return Unauthorized(text, fix="Give another key with --api-key-env.", code="model_key_refused")
    if answer.status_code < 500:
        return InvalidRequest(text, fix="Mend --model or --url.", code="model_request_refused")
    return PlatformError(text, fix="Try again later.", code="model_server_failed")
