"""The HTTP application of an engine: OpenAI under ``/v1``, adapters under ``/admin``, ``/metrics``."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from graftwork.core.errors import GraftworkError, NotFound
from graftwork.serving.port import EngineMetrics
from graftwork.serving.wire.backend import Backend
from graftwork.serving.wire.chat import chat_completions
from graftwork.serving.wire.completions import completions
from graftwork.serving.wire.http import BearerAuth, body_of, json_response, on_error
from graftwork.serving.wire.replies import model_object
from graftwork.serving.wire.requests import AdapterRequest, parse

Json = dict[str, Any]


def build_app(backend: Backend, token: str) -> Starlette:
    """The application; ``token`` is asked for on every route."""
    app = Starlette(
        routes=[
            Route("/health", _health),
            Route("/metrics", _metrics),
            Route("/v1/models", _models),
            Route("/v1/models/{name}", _model),
            Route("/v1/chat/completions", chat_completions, methods=["POST"]),
            Route("/v1/completions", completions, methods=["POST"]),
            Route("/admin/adapters", _load, methods=["POST"]),
            Route("/admin/adapters/{name}", _unload, methods=["DELETE"]),
            Route("/admin/drain", _drain, methods=["POST"]),
            Route("/admin/state", _state),
        ],
        middleware=[Middleware(BearerAuth, token=token)],
        exception_handlers={GraftworkError: on_error, Exception: on_error},
    )
    app.state.backend = backend
    return app


def _backend(request: Request) -> Backend:
    return request.app.state.backend


async def _health(request: Request) -> Response:
    return json_response({"status": "draining" if _backend(request).draining else "ok"})


async def _models(request: Request) -> Response:
    cards = _backend(request).cards()
    return json_response({"object": "list", "data": [model_object(card) for card in cards]})


async def _model(request: Request) -> Response:
    name = request.path_params["name"]
    for card in _backend(request).cards():
        if card.name == name:
            return json_response(model_object(card))
    raise model_not_found(name)


async def _load(request: Request) -> Response:
    asked = parse(AdapterRequest, await body_of(request))
    await _backend(request).load(asked.name, Path(asked.path))
    return json_response({"name": asked.name, "path": asked.path, "loaded": True})


async def _unload(request: Request) -> Response:
    name = request.path_params["name"]
    _backend(request).unload(name)
    return json_response({"name": name, "loaded": False})


async def _drain(request: Request) -> Response:
    _backend(request).drain()
    return json_response({"draining": True})


async def _state(request: Request) -> Response:
    backend = _backend(request)
    base, *adapters = backend.cards()
    return json_response(
        {
            "base": base.root,
            "context": backend.context,
            "draining": backend.draining,
            "adapters": [card.name for card in adapters],
            "metrics": asdict(backend.metrics()),
        }
    )


async def _metrics(request: Request) -> Response:
    return PlainTextResponse(exposition(_backend(request).metrics()), media_type="text/plain; version=0.0.4")


def model_not_found(name: str) -> NotFound:
    """The error for a model that is not loaded: never answered by the base instead."""
    return NotFound(
        f"The model {name!r} is not loaded in this engine.",
        fix="Load it, or send one of the names that GET /v1/models lists.",
        code="model_not_found",
        param="model",
    )


_GAUGES = {
    "running": "Requests in the batch.",
    "waiting": "Requests in the queue.",
    "kv_tokens_used": "Tokens of KV cache reserved.",
    "kv_tokens_total": "Tokens of KV cache there are.",
}
_COUNTERS = {
    "prompt_tokens": "Tokens of prompts processed.",
    "generated_tokens": "Tokens generated.",
    "requests": "Answers asked for.",
}


def exposition(metrics: EngineMetrics) -> str:
    """Prometheus text format (version 0.0.4)."""
    values = asdict(metrics)
    lines: list[str] = []
    for name, text in _GAUGES.items():
        lines += _metric(f"graftwork_engine_{name}", "gauge", text, {"": values[name]})
    for name, text in _COUNTERS.items():
        lines += _metric(f"graftwork_engine_{name}_total", "counter", text, {"": values[name]})
    by_model = {f'{{model="{name}"}}': count for name, count in metrics.generated_by_model.items()}
    lines += _metric(
        "graftwork_engine_model_generated_tokens_total", "counter", "Tokens generated, by model.", by_model
    )
    return "\n".join(lines) + "\n"


def _metric(name: str, kind: str, text: str, values: dict[str, int]) -> list[str]:
    head = [f"# HELP {name} {text}", f"# TYPE {name} {kind}"]
    return head + [f"{name}{label} {value}" for label, value in values.items()]
