"""One ASGI application out of two: the gateway for inference, FastAPI for everything else."""

from __future__ import annotations

from fastapi import FastAPI
from starlette.types import ASGIApp, Receive, Scope, Send

from graftwork import __version__
from graftwork.api import errors
from graftwork.api.admin import adapters, billing, datasets, exports, kept, keys, sweeps, system
from graftwork.api.admin import jobs as admin_jobs
from graftwork.api.openai import completions, files, jobs, models
from graftwork.api.platform import Platform
from graftwork.api.wire.base import ErrorAnswer
from graftwork.gateway import Gateway, GatewaySettings
from graftwork.gateway.requests import CHAT, ROUTES

ROUTERS = (
    files.router,
    jobs.router,
    models.router,
    adapters.router,
    exports.router,
    keys.router,
    billing.router,
    datasets.router,
    kept.router,
    completions.router,
    admin_jobs.router,
    sweeps.router,
    system.router,
)


class Edge:
    """The dispatcher. Its lifespan is the gateway's; FastAPI needs none.

    Attributes:
        gateway: answers ``/v1/chat/completions`` (but for the list of stored ones) and ``/v1/completions``.
        api: answers all other paths.
    """

    def __init__(self, gateway: Gateway, api: FastAPI) -> None:
        self.gateway = gateway
        self.api = api

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one ASGI connection."""
        stored = scope.get("path") == CHAT.path and scope.get("method") == "GET"
        to_gateway = scope["type"] == "lifespan" or (scope.get("path") in ROUTES and not stored)
        app: ASGIApp = self.gateway if to_gateway else self.api
        await app(scope, receive, send)


def build(platform: Platform, settings: GatewaySettings | None = None) -> Edge:
    """Everything that answers HTTP, over a running platform."""
    gateway = Gateway(
        platform.store,
        pepper=platform.pepper,
        clock=platform.clock,
        settings=settings,
        learn=platform.models.offer,
    )
    return Edge(gateway, api(platform, gateway))


def api(platform: Platform, gateway: Gateway) -> FastAPI:
    """The FastAPI part alone."""
    app = FastAPI(
        title="Graftwork",
        version=__version__,
        docs_url=None,  # the interactive page loads scripts from elsewhere
        redoc_url=None,
        openapi_url="/openapi.json",
        responses={"4XX": {"model": ErrorAnswer}, "5XX": {"model": ErrorAnswer}},
    )
    app.state.platform = platform
    app.state.gateway = gateway
    for router in ROUTERS:
        app.include_router(router)
    errors.install(app)
    return app
