"""A small asynchronous client of one engine: inference by OpenAI HTTP, scores, and the adapters it holds.

For reconcilers and evaluators. The gateway has its own, faster client; customers use the ``openai`` SDK.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx
import orjson

from graftwork.core.errors import (
    Conflict,
    Forbidden,
    GraftworkError,
    InvalidRequest,
    NotFound,
    PlatformError,
    RateLimited,
    Unauthorized,
    Unavailable,
)
from graftwork.serving.port import EngineMetrics

Json = dict[str, Any]

_BY_STATUS: dict[int, type[GraftworkError]] = {
    400: InvalidRequest,
    401: Unauthorized,
    403: Forbidden,
    404: NotFound,
    409: Conflict,
    413: InvalidRequest,
    429: RateLimited,
    503: Unavailable,
}


class EngineClient:
    """Speaks to one engine. Close it, or use it as ``async with``.

    Every method raises the error of ``core.errors`` that the engine's envelope names (``NotFound`` with code
    ``model_not_found`` for a model that is not loaded, ``InvalidRequest``, ``Unavailable`` when its
    queue is full), and ``Unavailable`` with code ``engine_unreachable`` when no answer came. Nothing is
    retried.

    Args:
        url: origin of the engine, as in ``EngineInfo.url``.
        token: its bearer token.
        transport: another way to reach it, such as ``httpx.ASGITransport`` of a fake engine.
        timeout: seconds to wait for the next byte of an answer.
    """

    def __init__(
        self,
        url: str,
        token: str,
        *,
        transport: httpx.AsyncBaseTransport | None = None,
        timeout: float = 300.0,
    ) -> None:
        self._http = httpx.AsyncClient(
            base_url=url,
            headers={"authorization": f"Bearer {token}"},
            transport=transport,
            timeout=httpx.Timeout(timeout, connect=10.0),
            trust_env=False,
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def chat(self, model: str, messages: Sequence[Json], **options: Any) -> Json:
        """One ``chat.completion`` object; ``options`` are fields of OpenAI's request (``max_tokens``, …)."""
        return await self._json(
            "POST", "/v1/chat/completions", {"model": model, "messages": list(messages), **options}
        )

    async def stream_chat(self, model: str, messages: Sequence[Json], **options: Any) -> AsyncIterator[Json]:
        """The ``chat.completion.chunk`` objects of one streamed answer, in order.

        Closing the iterator early ends the request in the engine.
        """
        body = {"model": model, "messages": list(messages), "stream": True, **options}
        try:
            async with self._http.stream("POST", "/v1/chat/completions", json=body) as response:
                if response.status_code != 200:
                    raise _error(response.status_code, await response.aread())
                async for line in response.aiter_lines():
                    if not line.startswith("data: ") or line == "data: [DONE]":
                        continue
                    chunk: Json = orjson.loads(line[6:])
                    if "error" in chunk:
                        raise _error(500, line[6:].encode())
                    yield chunk
        except httpx.HTTPError as error:
            raise _unreachable(error) from error

    async def complete(self, model: str, prompt: str | Sequence[int], **options: Any) -> Json:
        """One ``text_completion`` object for a text or for token ids."""
        asked = prompt if isinstance(prompt, str) else list(prompt)
        return await self._json("POST", "/v1/completions", {"model": model, "prompt": asked, **options})

    async def score(self, model: str, tokens: Sequence[int]) -> list[float | None]:
        """Log-probability (natural) of each token given those before it; the first has none.

        Returns:
            As many values as ``tokens``; the first is None.
        """
        answer = await self.complete(model, tokens, echo=True, max_tokens=0, logprobs=1)
        return list(answer["choices"][0]["logprobs"]["token_logprobs"])

    async def models(self) -> list[Json]:
        """The ``model`` objects: ``base``, then the adapters with ``root`` and ``parent``."""
        answer = await self._json("GET", "/v1/models")
        return list(answer["data"])

    async def load(self, name: str, directory: Path) -> None:
        """Load an adapter; see ``Engine.load``."""
        await self._json("POST", "/admin/adapters", {"name": name, "path": str(directory)})

    async def unload(self, name: str) -> None:
        """Unload an adapter. Raises ``NotFound`` when it is not loaded."""
        await self._json("DELETE", f"/admin/adapters/{name}")

    async def drain(self) -> None:
        """Let the engine refuse new requests from now on."""
        await self._json("POST", "/admin/drain")

    async def state(self) -> Json:
        """``{"base", "context", "draining", "adapters": [...], "metrics": {...}}``."""
        return await self._json("GET", "/admin/state")

    async def metrics(self) -> EngineMetrics:
        """The engine's gauges and counters."""
        return EngineMetrics(**(await self.state())["metrics"])

    async def _json(self, method: str, path: str, body: Json | None = None) -> Json:
        try:
            response = await self._http.request(method, path, json=body)
        except httpx.HTTPError as error:
            raise _unreachable(error) from error
        if response.status_code >= 300:
            raise _error(response.status_code, response.content)
        return orjson.loads(response.content)


def _unreachable(error: httpx.HTTPError) -> Unavailable:
    return Unavailable(
        f"The engine did not answer ({type(error).__name__}: {error}).",
        fix="It is restarted by its reconciler; try again in some seconds.",
        code="engine_unreachable",
    )


def _error(status: int, content: bytes) -> GraftworkError:
    cls = _BY_STATUS.get(status, PlatformError)
    try:
        told = orjson.loads(content)["error"]
        return cls(
            str(told["message"]),
            code=told.get("code") or cls.code,
            param=told.get("param"),
            details=told.get("graftwork"),
        )
    except (orjson.JSONDecodeError, KeyError, TypeError, AttributeError):
        return cls(f"The engine answered {status} without saying why.", code="engine_error")
